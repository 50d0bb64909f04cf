"""The needs of the two edges besides their servers: how HTTP is read, and the ways of the Functions worker."""
