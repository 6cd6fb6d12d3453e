/* SPDX-License-Identifier: MIT */
/* Copies to and from a GPU's pinned memory. */
#include "support.h"
#include "transfer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LARGEST = 3 * 70001 };

static const size_t sizes[] = {0, 1, 7, 4095, 4097, 65536, 98303, 98304, 131072, LARGEST};

/* What a copy told of, and what the caller's thread found in place then. */
typedef struct told {
    const double *to, *from;
    size_t end;
    int times, in_order, in_place;
} told;

static void hear(void *context, size_t begin, size_t end)
{
    told *t = context;
    t->in_order = t->in_order && begin == t->end && end > begin;
    t->in_place = t->in_place && memcmp(t->to + begin, t->from + begin, (end - begin) * sizeof *t->to) == 0;
    t->end = end;
    t->times++;
}

static void any_number_of_threads_copies_the_same(void **state)
{
    (void)state;
    double *from = malloc(LARGEST * sizeof *from), *to = malloc((LARGEST + 1) * sizeof *to);
    for (int i = 0; i < LARGEST; i++) from[i] = i - 0.5 * LARGEST;
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++)
        for (int threads = 1; threads < 12; threads += 2)
            for (int checked = 0; checked < 2; checked++) {
                const size_t n = sizes[k];
                for (size_t i = 0; i <= LARGEST; i++) to[i] = -1e300;
                if (checked)
                    assert_true(mlff_copy_finite(to, from, n, threads, NULL, NULL));
                else
                    mlff_copy(to, from, n, threads);
                assert_memory_equal(to, from, n * sizeof *to);
                assert_true(to[n] == -1e300);
            }
    free(from), free(to);
}

static void parts_in_their_place_are_told_in_order_and_all_of_them(void **state)
{
    (void)state;
    double *from = malloc(LARGEST * sizeof *from), *to = malloc((LARGEST + 1) * sizeof *to);
    for (int i = 0; i < LARGEST; i++) from[i] = i - 0.5 * LARGEST;
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++)
        for (int threads = 1; threads < 12; threads += 2)
            for (int offset = 0; offset < 2; offset++) { /* in memory that begins at 16 bytes or between */
                const size_t n = sizes[k];
                memset(to, 0xff, (LARGEST + 1) * sizeof *to);
                told t = {.to = to + offset, .from = from, .in_order = 1, .in_place = 1};
                assert_true(mlff_copy_finite(to + offset, from, n, threads, hear, &t));
                assert_true(t.in_order && t.in_place);
                assert_int_equal(t.end, n);
                if (threads == 1 && n > 100000) assert_true(t.times > 1); /* while the others are still copied */
            }
    free(from), free(to);
}

static void a_number_that_is_not_finite_is_seen_wherever_it_stands(void **state)
{
    (void)state;
    const double bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    double *from = calloc(LARGEST, sizeof *from), *to = malloc(LARGEST * sizeof *to);
    from[5] = 1.7976931348623157e308, from[6] = -5e-324;
    for (int threads = 1; threads < 10; threads += 4)
        for (int i = 0; i < LARGEST; i += i < 100 || i > LARGEST - 100 ? 1 : 20011) {
            const double before = from[i];
            from[i] = bad[i % 4];
            assert_false(mlff_copy_finite(to, from, LARGEST, threads, NULL, NULL));
            from[i] = before;
        }
    assert_true(mlff_copy_finite(to, from, LARGEST, 4, NULL, NULL));
    free(from), free(to);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_threads_copies_the_same),
        cmocka_unit_test(parts_in_their_place_are_told_in_order_and_all_of_them),
        cmocka_unit_test(a_number_that_is_not_finite_is_seen_wherever_it_stands),
    };
    return cmocka_run_group_tests_name("transfer", tests, NULL, NULL);
}
