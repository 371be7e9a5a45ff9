/* act FILE SEED: prints the chunk that the policy of policy_files.py answers to striped images. */
#include <actquant.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEIGHT = 6, WIDTH = 12, CHANNELS = 3, STATE = 3, ACTIONS = 3 * 2 };

static int failed(const char* what) {
    fprintf(stderr, "%s: %s\n", what, aq_last_error());
    return 1;
}

int main(int count, char** arguments) {
    static uint8_t pixels[HEIGHT * WIDTH * CHANNELS];
    const float state[STATE] = {0.25f, -0.5f, 1.0f};
    float actions[ACTIONS];
    aq_image images[2];
    aq_observation observation;
    aq_noise noise;
    aq_session* session = NULL;
    size_t k;

    if (count != 3) {
        fprintf(stderr, "usage: act FILE SEED\n");
        return 2;
    }
    for (k = 0; k < sizeof pixels; k++) {
        pixels[k] = (uint8_t)(7 * k);
    }
    images[0].pixels = pixels;
    images[0].height = HEIGHT;
    images[0].width = WIDTH;
    images[1] = images[0];

    memset(&observation, 0, sizeof observation);
    observation.images = images;
    observation.image_count = 2;
    observation.state = state;
    observation.state_count = STATE;
    observation.task = "push the red cube";
    memset(&noise, 0, sizeof noise);
    noise.seed = strtoull(arguments[2], NULL, 10);
    noise.has_seed = 1;

    if (aq_open(arguments[1], 1, &session) != AQ_OK) {
        return failed("open");
    }
    if (aq_act(session, &observation, &noise, actions, ACTIONS) != AQ_OK) {
        aq_close(session);
        return failed("act");
    }
    for (k = 0; k < ACTIONS; k++) {
        printf("%.9g\n", actions[k]);
    }
    aq_close(session);
    return 0;
}
