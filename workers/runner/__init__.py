"""The process that holds one loaded model. A crash in here costs one replica or one job, nothing else."""
