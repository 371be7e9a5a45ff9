"""OpenVLA-OFT in its published layout."""
