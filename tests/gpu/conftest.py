import os

# ggml leaves out processors that speak Vulkan, unless a device is named by its number.
os.environ.setdefault("GGML_VK_VISIBLE_DEVICES", "0")
