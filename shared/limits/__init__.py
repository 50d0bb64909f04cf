"""Admit: rate limits, quotas and budgets, held across all instances by leases on table rows.

A *limit* has a *row* in the table `limits`: a token bucket. Each instance leases a slice of it for two seconds (its
*lease*) and admits calls from that without the table. When the lease runs low it *exchanges* with the row: one
conditional write gives back the rest, settles what calls really took, and leases a new slice. A large limit is divided
among several rows (*shards*).

In reading order:
    limiter           reserve, settle, release: all limits of a call at once
    scopes            the limits that apply to a call, and their periods
    _limits_at_hand   those limits in memory, by call and by scope
    _joint_admission  a call at all of them, or at none
    reservation       the amounts that a call has reserved
    _pricing          the amounts that its usage comes to
    _call_limits      a call's cost at each of them, by estimation
    _lease            one limit: admit from the lease, wait for an exchange, or decide alone
    _exchange         the lease and the queue of waiting calls; exchanges with the row
    _holding          the lease, and what is owed; pure
    _token_bucket     the arithmetic of an exchange, per dimension (_amounts); pure
    _safe_mode        decisions without the table
    _settlement       the queue of limits that have to settle in the background
"""
