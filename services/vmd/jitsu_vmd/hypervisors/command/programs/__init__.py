"""Programs for [command.NAME] that are installed with vmd. They import the standard library only, to start quickly."""
