"""The only room that imports ray, mlflow or boto3."""
