"""Which latents find the traits that biologists name: a prototype per trait, chosen on training images and judged on test images."""
