"""The service's AWS resources, as one CDK stack: `cdk deploy` reads `cdk.json`, which runs `infra.app`."""
