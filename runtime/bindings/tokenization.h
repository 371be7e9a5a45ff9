#pragma once

#include <nanobind/nanobind.h>

void bind_tokenization(nanobind::module_& module);
