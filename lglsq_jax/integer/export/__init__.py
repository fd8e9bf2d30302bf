"""A program in other people's formats: each module writes one of them."""
