"""The fused training step: exact, in a dozen GPU kernels that read and write pairs (latent, code), never dense codes."""
