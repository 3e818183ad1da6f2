"""`python -m imgrank`."""

from imgrank.cli import main

if __name__ == "__main__":
    main()
