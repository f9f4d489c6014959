"""The course's own texts and the programs that make and read them; see README.md in this folder."""
