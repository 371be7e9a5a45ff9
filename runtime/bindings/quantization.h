#pragma once

#include <nanobind/nanobind.h>

void bind_quantization(nanobind::module_& module);
