"""Explore dictionaries, their latents and images: functions from frames to frames and plots; `app.py` lays them out in the browser."""
