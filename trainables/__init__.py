"""What runs inside a trial: pure PyTorch, no ray, no mlflow, no boto3."""
