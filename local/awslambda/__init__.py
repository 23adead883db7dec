"""AWS Lambda on a laptop: functions invoked by name, each in worker processes that run AWS's own runtime client."""
