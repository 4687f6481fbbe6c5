"""What a command or a Python caller asks for. Nothing here prints or knows the command line."""
