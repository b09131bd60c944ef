"""The web app: predict and explain the actions of a clip, search an index, and edit the actions."""
