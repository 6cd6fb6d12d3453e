/* SPDX-License-Identifier: MIT */
/* The metadata of a model file: every value that must be refused, and numbers that read the same in every locale. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <locale.h>
#include <math.h>
#include <unistd.h>

#include "mlff.h"
#include "model.h"
#include "tiny_model.h"

#include "refusal.h"

/* Sets a key of tiny_gaussian's metadata (NULL: takes it away). */
static tiny_model *tiny_with(const char *key, const char *value)
{
    tiny_model *tiny = tiny_make(&tiny_gaussian);
    if (value) {
        json_object_set_new(tiny->metadata, key, json_string(value));
    } else {
        json_object_del(tiny->metadata, key);
    }
    return tiny;
}

/* Expects that each value is refused with "metadata 'key': found 'value', expected <expected>". */
static void expect_refusal_of_values(const char *key, const char *const *values, size_t n, const char *expected)
{
    for (size_t k = 0; k < n; k++) {
        char part[256];
        snprintf(part, sizeof part, "metadata '%s': found '%s', expected %s", key, values[k], expected);
        expect_refusal(tiny_with(key, values[k]), MLFF_ERROR_FORMAT, part);
    }
}
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define EXPECT_REFUSAL_OF(key, expected, ...)                                                                          \
    do {                                                                                                               \
        const char *const values[] = {__VA_ARGS__};                                                                    \
        expect_refusal_of_values(key, values, COUNT(values), expected);                                                \
    } while (0)

/* -------------------------------------------------------------------------------------------- keys */

static void file_without_metadata_is_rejected(void **state)
{
    (void)state;
    tiny_model *tiny = tiny_make(&tiny_gaussian);
    json_object_del(tiny->header, "__metadata__");
    expect_refusal(tiny, MLFF_ERROR_FORMAT, "metadata 'mlff_format' is missing");
}

static void metadata_that_is_not_strings_is_rejected(void **state)
{
    (void)state;
    tiny_model *tiny = tiny_make(&tiny_gaussian);
    json_object_set_new(tiny->metadata, "cutoff", json_real(5.0));
    expect_refusal(tiny, MLFF_ERROR_FORMAT, "metadata 'cutoff' is a fractional number, expected a string");
    tiny = tiny_make(&tiny_gaussian);
    json_object_set_new(tiny->metadata, "info.x", json_object());
    expect_refusal(tiny, MLFF_ERROR_FORMAT, "metadata 'info.x' is an object, expected a string");
    tiny = tiny_make(&tiny_gaussian);
    json_object_set_new(tiny->header, "__metadata__", json_array());
    expect_refusal(tiny, MLFF_ERROR_FORMAT, "__metadata__ is an array, expected an object");
}

static void every_missing_key_is_named(void **state)
{
    (void)state;
    tiny_model *tiny = tiny_make(&tiny_gaussian);
    const char *key;
    json_t *value;
    int n = 0;
    json_object_foreach(tiny->metadata, key, value)
    {
        if (!strncmp(key, "info.", 5)) continue;
        char part[64];
        snprintf(part, sizeof part, "metadata '%s' is missing, expected", key);
        expect_refusal(tiny_with(key, NULL), MLFF_ERROR_FORMAT, part);
        n++;
    }
    assert_int_equal(n, 19);
    tiny_free(tiny);
}

static void unknown_key_is_rejected(void **state)
{
    (void)state;
    expect_refusal(tiny_with("cut_off", "5.0"), MLFF_ERROR_FORMAT, "unknown metadata key 'cut_off'");
    expect_refusal(tiny_with("Cutoff", "5.0"), MLFF_ERROR_FORMAT, "unknown metadata key 'Cutoff'");
    expect_refusal(tiny_with("", "5.0"), MLFF_ERROR_FORMAT, "unknown metadata key ''");
}

static void info_keys_are_free(void **state)
{
    (void)state;
    mlff_model *model = expect_model(tiny_with("info.errors", "80 meV/\xc3\x85,\nnan"));
    assert_string_equal(mlff_model_get_metadata(model, "info.errors"), "80 meV/\xc3\x85,\nnan");
    assert_null(mlff_model_get_metadata(model, "info.error"));
    assert_null(mlff_model_get_metadata(model, NULL));
    assert_null(mlff_model_get_metadata(NULL, "cutoff"));
    mlff_model_free(model);
}

static void unknown_format_version_or_architecture_is_rejected(void **state)
{
    (void)state;
    expect_refusal(tiny_with("mlff_format", "2"), MLFF_ERROR_UNSUPPORTED,
                   "metadata 'mlff_format': found '2', expected '1'");
    expect_refusal(tiny_with("mlff_format", "1.0"), MLFF_ERROR_UNSUPPORTED, "found '1.0', expected '1'");
    expect_refusal(tiny_with("mlff_format", ""), MLFF_ERROR_UNSUPPORTED, "found '', expected '1'");
    expect_refusal(tiny_with("architecture", "schnet"), MLFF_ERROR_UNSUPPORTED,
                   "metadata 'architecture': found 'schnet', expected 'painn'");
}

/* ------------------------------------------------------------------------------------------- values */

static void size_that_is_no_integer_in_range_is_rejected(void **state)
{
    (void)state;
    EXPECT_REFUSAL_OF("features", "an integer of 1 to 1024", "", "0", "-1", "1025", "4.0", "4 ", " 4", "+4", "04",
                      "0x4", "4e0", "nan", "4294967300", "18446744073709551620", "99999999999999999999999", "four");
    EXPECT_REFUSAL_OF("interactions", "an integer of 1 to 16", "", "0", "17", "-2", "2.", "4294967298");
    EXPECT_REFUSAL_OF("radial_functions", "an integer of 1 to 256", "", "0", "257", "3,", "3a");
    EXPECT_REFUSAL_OF("readout_features", "an integer of 1 to 1024", "", "0", "1025", "2;");
}

static void cutoff_that_is_no_number_in_range_is_rejected(void **state)
{
    (void)state;
    EXPECT_REFUSAL_OF("cutoff", "a number of 0.1 to 100 (angstrom)", "", "nan", "NaN", "inf", "-inf", "infinity", "-1",
                      "-5.0", "0", "0.0", "1e-300", "1e308", "1e999", "100.1", "6.0abc", "6.0 ", " 6.0", "6,0", "+6.0",
                      "0x6", "0x1.8p2", "6e", "6e+", ".", "-", "e5", "6.0.0", "6.0 6.0", "1e-400", "5d0", "five");
}

static void epsilon_that_is_no_number_in_range_is_rejected(void **state)
{
    (void)state;
    EXPECT_REFUSAL_OF("epsilon", "a number of 0 to 1", "", "nan", "-1e-8", "1.5", "1e308", "1e-8x", "1e-400");
}

static void energy_that_is_no_number_in_range_is_rejected(void **state)
{
    (void)state;
    EXPECT_REFUSAL_OF("scale", "a number of -1e9 to 1e9", "", "nan", "inf", "1e308", "1.1e9", "6.0abc", "1 ");
    EXPECT_REFUSAL_OF("shift", "a number of -1e9 to 1e9", "", "nan", "-inf", "-1e10", "1e308", "0x0");
}

static void wrong_element_energies_are_rejected(void **state)
{
    (void)state;
    EXPECT_REFUSAL_OF("element_energies", "a number of -1e9 to 1e9 for each element", "", "nan 1 2", "1 inf 2",
                      "1 2 1e10", "1  2 3", "1 2 ", " 1 2 3", "1 2 x");
    EXPECT_REFUSAL_OF("element_energies", "as many numbers as elements", "1", "1 2", "1 2 3 4", "1 2 3 ", "1,2,3",
                      "1;2;3", "1 2 3x");
}

static void wrong_elements_are_rejected(void **state)
{
    (void)state;
    EXPECT_REFUSAL_OF("elements", "chemical symbols separated by one space", "", " ", "H C Xx", "H C o", "H C ",
                      " H C O", "H  C O", "H,C,O", "1 6 8", "h c o", "HCO", "H C Uue");
    EXPECT_REFUSAL_OF("elements", "each chemical symbol once", "H C H", "O O O");
}

static void unknown_choice_is_rejected(void **state)
{
    (void)state;
    EXPECT_REFUSAL_OF("radial", "'gaussian' or 'bessel'", "", "Gaussian", "gauss", "gaussian ", "expnorm");
    EXPECT_REFUSAL_OF("cutoff_function", "'cosine'", "", "polynomial", "cos");
    EXPECT_REFUSAL_OF("vector_bias", "'true' or 'false'", "", "True", "1", "yes");
    EXPECT_REFUSAL_OF("energy_unit", "'eV' or 'kcal/mol'", "", "ev", "Hartree", "kJ/mol", "meV");
    EXPECT_REFUSAL_OF("length_unit", "'angstrom'", "", "Angstrom", "bohr", "nm");
}

static void empty_provenance_or_licence_is_rejected(void **state)
{
    (void)state;
    EXPECT_REFUSAL_OF("provenance", "a text that is not empty", "");
    EXPECT_REFUSAL_OF("licence", "a text that is not empty", "");
}

static void control_characters_in_a_value_do_not_reach_the_message(void **state)
{
    (void)state;
    expect_refusal(tiny_with("cutoff", "5\n6\x1b[2J"), MLFF_ERROR_FORMAT, "found '5?6?[2J', expected");
}

/* ------------------------------------------------------------------------------------------ meaning */

static void numbers_have_their_meaning(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double value;
    } good[] = {{"5", 5.0},     {"5.", 5.0},     {".5", 0.5},
                {"5.25", 5.25}, {"1e2", 100.0},  {"1E+1", 10.0},
                {"0.1", 0.1},   {"500e-2", 5.0}, {"4.9999999999999991", 0x1.3ffffffffffffp2}};
    for (size_t k = 0; k < COUNT(good); k++) {
        mlff_model *model = expect_model(tiny_with("cutoff", good[k].text));
        assert_true(mlff_model_get_info(model)->cutoff == good[k].value);
        mlff_model_free(model);
    }
}

static void hyperparameters_are_shown(void **state)
{
    (void)state;
    mlff_model *model = expect_model(tiny_make(&tiny_gaussian));
    const mlff_model_info *info = mlff_model_get_info(model);
    assert_string_equal(info->name, "tiny.safetensors");
    assert_string_equal(info->architecture, "painn");
    assert_int_equal(info->features, 4);
    assert_int_equal(info->interactions, 2);
    assert_string_equal(info->radial, "gaussian");
    assert_int_equal(info->radial_functions, 3);
    assert_true(info->cutoff == 5.0 && info->epsilon == 1e-8);
    assert_int_equal(info->vector_bias, 0);
    assert_int_equal(info->n_elements, 3);
    assert_string_equal(info->elements[0], "H");
    assert_string_equal(info->elements[1], "C");
    assert_string_equal(info->elements[2], "O");
    assert_string_equal(info->energy_unit, "eV");
    assert_string_equal(mlff_model_get_metadata(model, "provenance"), "made by a test");
    mlff_model_free(model);
    assert_null(mlff_model_get_info(NULL));
}

static void energies_in_kcal_per_mol_become_eV(void **state)
{
    (void)state;
    const double unit = MLFF_EV_IN_KCAL_PER_MOL;
    mlff_model *model = expect_model(tiny_make(&tiny_gaussian));
    assert_true(model->scale == 1.5);
    assert_true(model->atom_shift[0] == -2.25 - 13.5);
    assert_true(model->atom_shift[1] == -2.25 + 1.0);
    assert_true(model->atom_shift[2] == -2.25 + 2.0);
    mlff_model_free(model);

    model = expect_model(tiny_with("energy_unit", "kcal/mol"));
    assert_string_equal(mlff_model_get_info(model)->energy_unit, "kcal/mol");
    assert_true(model->scale == 1.5 / unit);
    assert_true(model->atom_shift[0] == (-2.25 - 13.5) / unit);
    assert_true(model->atom_shift[2] == (-2.25 + 2.0) / unit);
    mlff_model_free(model);
}

static void all_elements_of_the_periodic_table_are_known(void **state)
{
    (void)state;
    static const char elements[] =
        "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr "
        "Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir "
        "Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl "
        "Mc Lv Ts Og";
    enum { n = 118 };
    char energies[2 * n];
    for (int k = 0; k < n; k++) memcpy(energies + 2 * k, "1 ", 2);
    energies[2 * n - 1] = '\0';
    tiny_options options = tiny_gaussian;
    options.elements = elements;
    options.element_energies = energies;
    options.n_elements = n;
    mlff_model *model = expect_model(tiny_make(&options));
    assert_int_equal(mlff_model_get_info(model)->n_elements, n);
    assert_string_equal(mlff_model_get_info(model)->elements[n - 1], "Og");
    mlff_model_free(model);
}

/* -------------------------------------------------------------------------------------- short range */

static tiny_model *tiny_with_short_range(const char *inner, const char *outer)
{
    tiny_model *tiny = tiny_make(&tiny_gaussian);
    tiny_add_short_range(tiny, inner, outer);
    return tiny;
}

static void short_range_of_each_pair_is_read(void **state)
{
    (void)state;
    mlff_model *model = expect_model(tiny_with_short_range("0.5 0 0 1e0 1.25 1.5", "0.75 0.01 0 5.0 1.5 2"));
    const double inner[9] = {0.5, 0, 0, 0, 1, 1.25, 0, 1.25, 1.5}, outer[9] = {0.75, 0.01, 0, 0.01, 5, 1.5, 0, 1.5, 2};
    const int nuclei[3] = {1, 6, 8};
    for (int k = 0; k < 9; k++) {
        const short_range_pair *pair = &model->short_range[k];
        assert_true(pair->inner == inner[k] && pair->outer == outer[k]);
        const int i = nuclei[k / 3], j = nuclei[k % 3];
        assert_true(fabs(pair->strength - 14.3996454784 * i * j) < 1e-9);
        assert_true(fabs(pair->inverse_reach * 0.4685 - pow(i, 0.23) - pow(j, 0.23)) < 1e-12);
    }
    mlff_model_free(model);
    model = expect_model(tiny_make(&tiny_gaussian));
    assert_null(model->short_range);
    mlff_model_free(model);
}

static void half_a_short_range_is_rejected(void **state)
{
    (void)state;
    static const char *const keys[] = {"short_range", "short_range_inner", "short_range_outer"};
    for (int k = 0; k < 3; k++) {
        tiny_model *tiny = tiny_with_short_range("1 1 1 1 1 1", "2 2 2 2 2 2");
        json_object_del(tiny->metadata, keys[k]);
        char part[64];
        snprintf(part, sizeof part, "metadata '%s' is missing, expected", keys[k]);
        expect_refusal(tiny, MLFF_ERROR_FORMAT, part);
    }
    tiny_model *tiny = tiny_with_short_range("1 1 1 1 1 1", "2 2 2 2 2 2");
    json_object_set_new(tiny->metadata, "short_range", json_string("morse"));
    expect_refusal(tiny, MLFF_ERROR_FORMAT, "metadata 'short_range': found 'morse', expected 'zbl'");
}

static void wrong_short_range_distances_are_rejected(void **state)
{
    (void)state;
    static const char *const lists[] = {"",
                                        "2",
                                        "2 2 2 2 2",
                                        "2 2 2 2 2 2 ",
                                        "2 2 2 2 2 2 2",
                                        "2  2 2 2 2 2",
                                        "2,2,2,2,2,2",
                                        "2 2 2 2 2 nan",
                                        "2 2 2 2 2 2A",
                                        "2 2 -2 2 2 2",
                                        "2 2 2 1e3 2 2",
                                        " 2 2 2 2 2 2"};
    for (size_t k = 0; k < COUNT(lists); k++) {
        expect_refusal(tiny_with_short_range("1 1 1 1 1 1", lists[k]), MLFF_ERROR_FORMAT, "'short_range_outer': found");
        expect_refusal(tiny_with_short_range(lists[k], "3 3 3 3 3 3"), MLFF_ERROR_FORMAT, "'short_range_inner': found");
    }
    static const char *const pairs[][2] = {/* H-C of H-H H-C H-O C-C C-O O-O; the cutoff is 5 */
                                           {"1 2 1 1 1 1", "2 2 2 2 2 2"}, {"1 1.995 1 1 1 1", "2 2 2 2 2 2"},
                                           {"1 3 1 1 1 1", "2 2 2 2 2 2"}, {"1 1 1 1 1 1", "2 5.001 2 2 2 2"},
                                           {"1 1 1 1 1 1", "2 0 2 2 2 2"}, {"1 0 1 1 1 1", "2 0.009 2 2 2 2"}};
    for (size_t k = 0; k < COUNT(pairs); k++)
        expect_refusal(tiny_with_short_range(pairs[k][0], pairs[k][1]), MLFF_ERROR_FORMAT,
                       " for H-C, expected outer of 0.01 to the cutoff 5");
}

/* ------------------------------------------------------------------------------------------- locale */

/* Sets a locale with a decimal comma: one that is installed, else one made here from the system's sources of locales.
 * Returns 0 if there is neither. */
static int set_comma_locale(char *folder)
{
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "es_ES.UTF-8", "nl_NL.UTF-8"};
    for (int attempt = 0; attempt < 2; attempt++) {
        for (size_t k = 0; k < COUNT(names); k++) {
            if (setlocale(LC_ALL, names[k]) && !strcmp(localeconv()->decimal_point, ",")) return 1;
        }
        char command[256];
        if (attempt > 0 || !mkdtemp(folder)) break;
        snprintf(command, sizeof command, "localedef -i de_DE -f UTF-8 '%s/de_DE.UTF-8' >'%s/log' 2>&1", folder,
                 folder);
        if (system(command) != 0) break;
        setenv("LOCPATH", folder, 1);
    }
    return 0;
}

static void numbers_are_the_same_with_a_decimal_comma(void **state)
{
    (void)state;
    char folder[] = "/tmp/mlff_locale_XXXXXX";
    int there_is_one = set_comma_locale(folder);
    if (there_is_one) {
        assert_true(strtod("5,5", NULL) == 5.5); /* the locale does what it is for */
        mlff_model *model = expect_model(tiny_with("cutoff", "5.5"));
        assert_true(mlff_model_get_info(model)->cutoff == 5.5);
        assert_true(model->atom_shift[0] == -2.25 - 13.5);
        mlff_model_free(model);
        expect_refusal(tiny_with("cutoff", "5,5"), MLFF_ERROR_FORMAT, "metadata 'cutoff': found '5,5', expected");
        assert_true(strtod("5,5", NULL) == 5.5); /* and stays set */
        setlocale(LC_ALL, "C");
    }
    char command[64];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command) != 0) print_message("could not remove %s\n", folder);
    if (!there_is_one) {
        print_message("skipped: no locale with a decimal comma is installed, and localedef could not make one\n");
        skip();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file_without_metadata_is_rejected),
        cmocka_unit_test(metadata_that_is_not_strings_is_rejected),
        cmocka_unit_test(every_missing_key_is_named),
        cmocka_unit_test(unknown_key_is_rejected),
        cmocka_unit_test(info_keys_are_free),
        cmocka_unit_test(unknown_format_version_or_architecture_is_rejected),
        cmocka_unit_test(size_that_is_no_integer_in_range_is_rejected),
        cmocka_unit_test(cutoff_that_is_no_number_in_range_is_rejected),
        cmocka_unit_test(epsilon_that_is_no_number_in_range_is_rejected),
        cmocka_unit_test(energy_that_is_no_number_in_range_is_rejected),
        cmocka_unit_test(wrong_element_energies_are_rejected),
        cmocka_unit_test(wrong_elements_are_rejected),
        cmocka_unit_test(unknown_choice_is_rejected),
        cmocka_unit_test(empty_provenance_or_licence_is_rejected),
        cmocka_unit_test(control_characters_in_a_value_do_not_reach_the_message),
        cmocka_unit_test(numbers_have_their_meaning),
        cmocka_unit_test(hyperparameters_are_shown),
        cmocka_unit_test(energies_in_kcal_per_mol_become_eV),
        cmocka_unit_test(all_elements_of_the_periodic_table_are_known),
        cmocka_unit_test(short_range_of_each_pair_is_read),
        cmocka_unit_test(half_a_short_range_is_rejected),
        cmocka_unit_test(wrong_short_range_distances_are_rejected),
        cmocka_unit_test(numbers_are_the_same_with_a_decimal_comma),
    };
    return cmocka_run_group_tests_name("model metadata", tests, NULL, NULL);
}
