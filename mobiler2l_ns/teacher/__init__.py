"""The teacher: a nerfacto trained in the run, or any other run's model, and its pictures."""
