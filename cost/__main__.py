"""`python -m cost`."""

from cost.model import main

if __name__ == "__main__":
    main()
