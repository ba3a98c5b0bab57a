"""The commands: options, one call of the compiler, a report, an exit status."""
