"""What `ssd34.workflows.train` is made of; only this sub-room of the workflows loads torch."""
