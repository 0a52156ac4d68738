/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see mom.h. The names of the constants are those of balloon.rules. */
#include "bench/balloon/mom.h"

#include <math.h>

static const double pressure_threshold = 0.20;
static const double pressure_critical = 0.05;
static const double min_guest_free_percent = 0.20;
static const double max_balloon_change_percent = 0.05;
static const double min_balloon_change_percent = 0.0025;

static double used(const struct mom_guest *guest)
{
    return guest->current_avg - guest->unused_avg;
}

static double if_worth_it(const struct mom_guest *guest, double size)
{
    return fabs(size - guest->current) > min_balloon_change_percent * guest->current ? size : 0;
}

static double shrink(double host_free, const struct mom_guest *guest)
{
    double guest_free = host_free <= pressure_critical
                            ? host_free - 0.05
                            : min_guest_free_percent * (host_free / pressure_threshold);
    double least = fmax(guest->min, used(guest) + guest_free * guest->current);
    double size = fmax(guest->current * (1 - max_balloon_change_percent), least);

    return size <= guest->current ? if_worth_it(guest, size) : 0;
}

static double grow(const struct mom_guest *guest)
{
    if (guest->current >= guest->max)
        return 0;
    double least = fmax(guest->min, used(guest) + min_guest_free_percent * guest->current);
    double size = fmax(guest->current * (1 + max_balloon_change_percent), least);
    return if_worth_it(guest, fmin(size, guest->max));
}

double mom_decide(double host_free, const struct mom_guest *guest)
{
    return host_free < pressure_threshold ? shrink(host_free, guest) : grow(guest);
}
