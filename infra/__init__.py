"""The AWS around the service, as one CDK stack: `cdk deploy` reads `cdk.json`, which runs `infra.app`."""
