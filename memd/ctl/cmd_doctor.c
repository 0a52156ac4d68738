/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memctl doctor: runs the checks of doctor.c and shows what they find. */
#include "memd/ctl/doctor.h"

static const struct {
    const char *name;
    enum ctl_colour colour;
} levels[] = {
    [FINDING_OK] = {"ok", CTL_GREEN},
    [FINDING_WARN] = {"warn", CTL_YELLOW},
    [FINDING_FAIL] = {"fail", CTL_RED},
};

static void print_finding(struct ctl *ctl, const char *name, const struct finding *finding)
{
    enum ctl_colour colour = levels[finding->level].colour;

    fprintf(ctl->out, "%s%-4s%s  %-11s  %s\n", ctl_colour_on(ctl, colour), levels[finding->level].name,
            ctl_colour_off(ctl, colour), name, finding->text);
    if (finding->fix[0])
        fprintf(ctl->out, "      %-11s  fix: %s\n", "", finding->fix);
}

/* Takes over nothing; a failed allocation shows as a document that is not complete, and is reported. */
static int append_finding(json_t *list, const char *name, const struct finding *finding)
{
    return json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s}", "name", name, "level",
                                                 levels[finding->level].name, "text", finding->text, "fix",
                                                 finding->fix));
}

enum ctl_result ctl_doctor(struct ctl *ctl)
{
    json_t *list = json_array();
    enum ctl_result result = CTL_DONE;
    struct doctor doctor;
    int lost = 0;

    doctor_gather(ctl, &doctor);
    for (size_t i = 0; i < doctor_nchecks; i++) {
        struct finding finding = {0};
        doctor_checks[i].check(&doctor, &finding);
        if (finding.level == FINDING_FAIL)
            result = CTL_FAILED;
        if (ctl->json)
            lost |= append_finding(list, doctor_checks[i].name, &finding);
        else
            print_finding(ctl, doctor_checks[i].name, &finding);
    }
    json_t *document = json_pack("{s:b, s:o}", "ok", result == CTL_DONE, "checks", list);
    if (ctl->json && (lost || !document)) {
        ctl_error(ctl, "out of memory");
        result = CTL_FAILED;
    } else if (ctl->json && ctl_print_json(ctl, document)) {
        result = CTL_FAILED;
    }
    json_decref(document);
    return result;
}
