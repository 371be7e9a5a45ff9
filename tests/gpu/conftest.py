import os

# ggml leaves out processors that speak Vulkan, unless a device is named by its number.
os.environ.setdefault("GGML_VK_VISIBLE_DEVICES", "0")
# Products of f32 values are exact to f32, so that a wrong operator is not taken for rounding. The
# tools are tried without it.
os.environ["GGML_VK_DISABLE_F16"] = "1"
