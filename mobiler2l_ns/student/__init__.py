"""The student: rays in, picture out."""
