"""What is taught before the separator: lip readers and video encoders."""
