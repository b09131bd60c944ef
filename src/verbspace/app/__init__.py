"""The app: drop a clip and see what it is taken for, and why; search an index; change the words."""
