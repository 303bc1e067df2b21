"""The commands: each is the function `command` in a module that has the command's name."""
