"""AWS Lambda on a laptop: functions that are invoked by name, in worker processes with AWS's own runtime client."""
