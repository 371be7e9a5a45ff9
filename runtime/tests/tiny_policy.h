#pragma once

#include "actquant.h"

// Vision passes the red channel on, the prefix multiplies it by w and adds the mean of the tokens'
// rows of w, the flow goes half way twice: from 1 to 3 tokens, 1 state, a chunk of [1, 2].
void write_tiny_policy(const char* path);

struct Scene {
    uint8_t pixels[6] = {51, 0, 0, 102, 0, 0};
    aq_image image = {pixels, 1, 2};
    float state = 0.5f;
    const char* task = "a";

    aq_observation observation() const { return {&image, 1, &state, 1, task, nullptr, 0}; }
};
