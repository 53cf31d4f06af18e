"""The command line, `exeunt COMMAND ...`. Each command is a file that reads its arguments and calls the library."""
