"""The method: losses, the distiller, schedules and the training loop."""
