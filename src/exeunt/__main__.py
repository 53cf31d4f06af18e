"""`python -m exeunt` is the command `exeunt`."""

from exeunt.cli.main import main

if __name__ == "__main__":
    main()
