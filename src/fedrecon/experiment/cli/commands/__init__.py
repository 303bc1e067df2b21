"""The commands, a module each, which has the name of its command and a `command` in it."""
