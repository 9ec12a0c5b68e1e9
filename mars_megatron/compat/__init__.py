"""Private and replaced names of other libraries, and the differences between their releases."""
