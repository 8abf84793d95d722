"""The spine: command line, configuration, run folder, checkpoints, metrics, reports. No science in here."""
