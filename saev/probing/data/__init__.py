"""What a token is: its label, its class, its codes, its split."""
