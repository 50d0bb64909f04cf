"""What the two edges need besides their servers: how HTTP is read, and the ways of the Functions worker."""
