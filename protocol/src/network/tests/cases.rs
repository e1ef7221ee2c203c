//! Who asks for what, after what was signed.

use super::{ANYWHERE, LAST, OK, ROLE, STRANGER, World, author, hour, same};
use crate::network::{Action, Denied, Membership, Position, Role};

/// What was signed; who asks; for what; at which hour; where in the log; the answer.
pub(super) type Case = (&'static str, fn(&mut World), char, Action, u64, Position, Result<(), Denied>);

fn members_only(world: &mut World) {
    world.policy('R', 1, Membership::Members);
}

/// An admin `A` who may hand on twice, and nothing else.
pub(super) fn with_admin(world: &mut World) {
    world.policy('R', 1, Membership::Curated);
    world.grant("A", 'R', "", 'A', Role::Admin, |grant| grant.depth = 2);
    world.clock = 1;
}

/// Moderator `M`, made by admin `A`; another admin `B`.
pub(super) fn with_moderator(world: &mut World) {
    with_admin(world);
    world.grant("M", 'A', "A", 'M', Role::Moderator, same);
    world.grant("B", 'R', "", 'B', Role::Admin, same);
    world.clock = 2;
}

fn channel(name: char) -> Action {
    Action::Moderate(Some(author(name)))
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        ("open: anybody writes", |_| {}, 'X', Action::Write, 5, LAST, OK),
        ("open: anybody publishes", |_| {}, 'X', Action::Publish, 5, LAST, OK),
        ("open: nobody moderates", |_| {}, 'X', ANYWHERE, 5, LAST, ROLE),
        ("open: nobody sets the policy", |_| {}, 'X', Action::SetPolicy, 5, LAST, ROLE),
        ("the root writes", members_only, 'R', Action::Write, 5, LAST, OK),
        ("the root moderates", members_only, 'R', ANYWHERE, 5, LAST, OK),
        ("the root confirms", members_only, 'R', Action::ConfirmPayments, 5, LAST, OK),
        ("the root sets the policy", members_only, 'R', Action::SetPolicy, 5, LAST, OK),
        ("members: strangers don't write", members_only, 'X', Action::Write, 5, LAST, STRANGER),
        ("members: strangers don't publish", members_only, 'X', Action::Publish, 5, LAST, STRANGER),
        (
            "members: members publish",
            |w| {
                members_only(w);
                w.grant("X", 'R', "", 'X', Role::Member, same);
            },
            'X',
            Action::Publish,
            5,
            LAST,
            OK,
        ),
        (
            "curated: members don't publish",
            |w| {
                with_admin(w);
                w.grant("X", 'A', "A", 'X', Role::Member, same);
            },
            'X',
            Action::Publish,
            5,
            LAST,
            ROLE,
        ),
        (
            "curated: members write",
            |w| {
                with_admin(w);
                w.grant("X", 'A', "A", 'X', Role::Member, same);
            },
            'X',
            Action::Write,
            5,
            LAST,
            OK,
        ),
        (
            "curated: artists publish",
            |w| {
                with_admin(w);
                w.grant("X", 'A', "A", 'X', Role::Artist, same);
            },
            'X',
            Action::Publish,
            5,
            LAST,
            OK,
        ),
        ("curated: moderators publish", with_moderator, 'M', Action::Publish, 5, LAST, OK),
        (
            "not yet",
            |w| {
                members_only(w);
                w.grant("X", 'R', "", 'X', Role::Member, |grant| grant.from = hour(3));
            },
            'X',
            Action::Write,
            2,
            LAST,
            STRANGER,
        ),
        (
            "from now on",
            |w| {
                members_only(w);
                w.grant("X", 'R', "", 'X', Role::Member, |grant| grant.from = hour(3));
            },
            'X',
            Action::Write,
            3,
            LAST,
            OK,
        ),
        (
            "expired",
            |w| {
                members_only(w);
                w.grant("X", 'R', "", 'X', Role::Member, |grant| grant.until = Some(hour(4)));
            },
            'X',
            Action::Write,
            4,
            LAST,
            STRANGER,
        ),
        (
            "not expired yet",
            |w| {
                members_only(w);
                w.grant("X", 'R', "", 'X', Role::Member, |grant| grant.until = Some(hour(4)));
            },
            'X',
            Action::Write,
            3,
            LAST,
            OK,
        ),
        (
            "forged: a stranger signs as if it were the root",
            |w| {
                members_only(w);
                w.grant("X", 'X', "", 'X', Role::Admin, same);
            },
            'X',
            Action::Write,
            5,
            LAST,
            STRANGER,
        ),
        (
            "forged: under a grant that is somebody else's",
            |w| {
                with_admin(w);
                w.grant("X", 'X', "A", 'X', Role::Admin, same);
            },
            'X',
            Action::SetPolicy,
            5,
            LAST,
            STRANGER,
        ),
        (
            "forged: under a grant that doesn't exist",
            |w| {
                members_only(w);
                w.grant("X", 'X', "none", 'X', Role::Member, same);
            },
            'X',
            Action::Write,
            5,
            LAST,
            STRANGER,
        ),
        (
            "the root of another network",
            |w| {
                members_only(w);
                w.grant("X", 'S', "", 'X', Role::Admin, same);
                w.policy('S', 2, Membership::Open);
            },
            'X',
            Action::Write,
            5,
            LAST,
            STRANGER,
        ),
        (
            "depth 0 isn't handed on",
            |w| {
                with_admin(w);
                w.grant("B", 'A', "A", 'B', Role::Admin, same);
                w.grant("X", 'B', "B", 'X', Role::Member, same);
            },
            'X',
            Action::Write,
            5,
            LAST,
            STRANGER,
        ),
        (
            "depth 1 is handed on once",
            |w| {
                with_admin(w);
                w.grant("B", 'A', "A", 'B', Role::Admin, |grant| grant.depth = 1);
                w.grant("X", 'B', "B", 'X', Role::Member, same);
            },
            'X',
            Action::Write,
            5,
            LAST,
            OK,
        ),
        (
            "no deeper than the parent",
            |w| {
                with_admin(w);
                w.grant("X", 'A', "A", 'X', Role::Member, |grant| grant.depth = 2);
            },
            'X',
            Action::Write,
            5,
            LAST,
            STRANGER,
        ),
        (
            "a role is handed on to others",
            |w| {
                with_admin(w);
                w.grant("T", 'R', "", 'T', Role::Treasurer, |grant| grant.depth = 1);
                w.grant("X", 'T', "T", 'X', Role::Treasurer, same);
            },
            'X',
            Action::ConfirmPayments,
            5,
            LAST,
            OK,
        ),
        (
            "another role isn't",
            |w| {
                with_admin(w);
                w.grant("T", 'R', "", 'T', Role::Treasurer, |grant| grant.depth = 1);
                w.grant("X", 'T', "T", 'X', Role::Moderator, same);
            },
            'X',
            ANYWHERE,
            5,
            LAST,
            STRANGER,
        ),
        (
            "admins give any role",
            |w| {
                with_admin(w);
                w.grant("X", 'A', "A", 'X', Role::Relay, same);
            },
            'X',
            Action::ServeEdge,
            5,
            LAST,
            OK,
        ),
        (
            "no longer than the parent",
            |w| {
                members_only(w);
                w.grant("A", 'R', "", 'A', Role::Admin, |grant| (grant.depth, grant.until) = (1, Some(hour(4))));
                w.grant("X", 'A', "A", 'X', Role::Member, same);
            },
            'X',
            Action::Write,
            4,
            LAST,
            STRANGER,
        ),
        (
            "as long as the parent",
            |w| {
                members_only(w);
                w.grant("A", 'R', "", 'A', Role::Admin, |grant| (grant.depth, grant.until) = (1, Some(hour(4))));
                w.grant("X", 'A', "A", 'X', Role::Member, same);
            },
            'X',
            Action::Write,
            3,
            LAST,
            OK,
        ),
        (
            "not before the parent",
            |w| {
                members_only(w);
                w.grant("A", 'R', "", 'A', Role::Admin, |grant| (grant.depth, grant.from) = (1, hour(2)));
                w.clock = 3;
                w.grant("X", 'A', "A", 'X', Role::Member, |grant| grant.from = hour(0));
            },
            'X',
            Action::Write,
            1,
            LAST,
            STRANGER,
        ),
        (
            "given after the parent expired",
            |w| {
                members_only(w);
                w.grant("A", 'R', "", 'A', Role::Admin, |grant| (grant.depth, grant.until) = (1, Some(hour(4))));
                w.clock = 4;
                w.grant("X", 'A', "A", 'X', Role::Member, same);
            },
            'X',
            Action::Write,
            5,
            LAST,
            STRANGER,
        ),
        (
            "a channel's moderator there",
            |w| {
                with_admin(w);
                w.grant("X", 'A', "A", 'X', Role::Moderator, |grant| grant.channel = Some(author('C')));
            },
            'X',
            channel('C'),
            5,
            LAST,
            OK,
        ),
        (
            "a channel's moderator elsewhere",
            |w| {
                with_admin(w);
                w.grant("X", 'A', "A", 'X', Role::Moderator, |grant| grant.channel = Some(author('C')));
            },
            'X',
            channel('D'),
            5,
            LAST,
            ROLE,
        ),
        (
            "a channel's moderator everywhere",
            |w| {
                with_admin(w);
                w.grant("X", 'A', "A", 'X', Role::Moderator, |grant| grant.channel = Some(author('C')));
            },
            'X',
            ANYWHERE,
            5,
            LAST,
            ROLE,
        ),
        ("a moderator on any channel", with_moderator, 'M', channel('D'), 5, LAST, OK),
        (
            "the scope is handed on",
            |w| {
                with_admin(w);
                w.grant("Y", 'A', "A", 'Y', Role::Moderator, |g| (g.channel, g.depth) = (Some(author('C')), 1));
                w.grant("X", 'Y', "Y", 'X', Role::Moderator, |grant| grant.channel = Some(author('C')));
            },
            'X',
            channel('C'),
            5,
            LAST,
            OK,
        ),
        (
            "the scope isn't widened",
            |w| {
                with_admin(w);
                w.grant("Y", 'A', "A", 'Y', Role::Moderator, |g| (g.channel, g.depth) = (Some(author('C')), 1));
                w.grant("X", 'Y', "Y", 'X', Role::Moderator, same);
            },
            'X',
            ANYWHERE,
            5,
            LAST,
            STRANGER,
        ),
        (
            "revoked",
            |w| {
                with_moderator(w);
                w.revoke('R', "M", None);
            },
            'M',
            ANYWHERE,
            1,
            (0, 0),
            STRANGER,
        ),
        (
            "revoked, but that was before",
            |w| {
                with_moderator(w);
                w.revoke('R', "M", Some((0, 5)));
            },
            'M',
            ANYWHERE,
            1,
            (0, 5),
            OK,
        ),
        (
            "revoked: what comes after",
            |w| {
                with_moderator(w);
                w.revoke('R', "M", Some((0, 5)));
            },
            'M',
            ANYWHERE,
            5,
            (0, 6),
            STRANGER,
        ),
        (
            "revoked: dated back gains nothing",
            |w| {
                with_moderator(w);
                w.revoke('R', "M", Some((0, 5)));
            },
            'M',
            ANYWHERE,
            1,
            (0, 6),
            STRANGER,
        ),
        (
            "revoked: a higher epoch gains nothing",
            |w| {
                with_moderator(w);
                w.revoke('R', "M", Some((0, 5)));
            },
            'M',
            ANYWHERE,
            1,
            (1, 0),
            STRANGER,
        ),
        (
            "a stranger revokes nothing",
            |w| {
                with_moderator(w);
                w.revoke('X', "M", None);
            },
            'M',
            ANYWHERE,
            5,
            LAST,
            OK,
        ),
        (
            "a colleague revokes nothing",
            |w| {
                with_moderator(w);
                w.grant("N", 'A', "A", 'N', Role::Moderator, same);
                w.revoke('N', "M", None);
            },
            'M',
            ANYWHERE,
            5,
            LAST,
            OK,
        ),
        (
            "whoever gave it revokes it",
            |w| {
                with_moderator(w);
                w.revoke('A', "M", None);
            },
            'M',
            ANYWHERE,
            5,
            LAST,
            STRANGER,
        ),
        (
            "the holder gives it back",
            |w| {
                with_moderator(w);
                w.revoke('M', "M", None);
            },
            'M',
            ANYWHERE,
            5,
            LAST,
            STRANGER,
        ),
        (
            "any admin revokes a moderator",
            |w| {
                with_moderator(w);
                w.revoke('B', "M", None);
            },
            'M',
            ANYWHERE,
            5,
            LAST,
            STRANGER,
        ),
        (
            "an admin doesn't revoke an admin of the root",
            |w| {
                with_moderator(w);
                w.revoke('B', "A", None);
            },
            'A',
            Action::SetPolicy,
            5,
            LAST,
            OK,
        ),
        (
            "two admins who revoke each other stay",
            |w| {
                with_moderator(w);
                w.revoke('B', "A", None);
                w.revoke('A', "B", None);
            },
            'B',
            Action::SetPolicy,
            5,
            LAST,
            OK,
        ),
        (
            "an admin revokes the admin it made",
            |w| {
                with_admin(w);
                w.grant("C", 'A', "A", 'C', Role::Admin, same);
                w.revoke('A', "C", None);
            },
            'C',
            Action::SetPolicy,
            5,
            LAST,
            STRANGER,
        ),
        (
            "a revoked admin revokes nothing",
            |w| {
                with_moderator(w);
                w.revoke('R', "B", None);
                w.revoke('B', "M", None);
            },
            'M',
            ANYWHERE,
            5,
            LAST,
            OK,
        ),
        (
            "what a revoked admin gave before stays",
            |w| {
                with_moderator(w);
                w.revoke('R', "A", Some((0, 0)));
            },
            'M',
            ANYWHERE,
            5,
            LAST,
            OK,
        ),
        (
            "what a revoked admin gave after doesn't",
            |w| {
                with_moderator(w);
                w.grant("N", 'A', "A", 'N', Role::Moderator, same);
                w.revoke('R', "A", Some((0, 0)));
            },
            'N',
            ANYWHERE,
            5,
            LAST,
            STRANGER,
        ),
        (
            "a void admin's grants are void",
            |w| {
                with_moderator(w);
                w.revoke('R', "A", None);
            },
            'M',
            ANYWHERE,
            5,
            LAST,
            STRANGER,
        ),
        (
            "the strictest revocation counts",
            |w| {
                with_moderator(w);
                w.revoke('R', "M", Some((0, 5)));
                w.revoke('A', "M", Some((0, 3)));
            },
            'M',
            ANYWHERE,
            2,
            (0, 4),
            STRANGER,
        ),
        (
            "revoked and given again",
            |w| {
                with_moderator(w);
                w.revoke('R', "M", None);
                w.grant("M2", 'R', "", 'M', Role::Moderator, same);
            },
            'M',
            ANYWHERE,
            5,
            LAST,
            OK,
        ),
        (
            "a member's policy is none",
            |w| {
                with_admin(w);
                w.grant("X", 'A', "A", 'X', Role::Member, same);
                w.policy('X', 2, Membership::Open);
            },
            'Y',
            Action::Write,
            5,
            LAST,
            STRANGER,
        ),
        (
            "an admin's policy counts",
            |w| {
                with_admin(w);
                w.policy('A', 2, Membership::Open);
            },
            'Y',
            Action::Write,
            5,
            LAST,
            OK,
        ),
        (
            "of one revision the root's policy counts",
            |w| {
                with_admin(w);
                w.policy('A', 2, Membership::Open);
                w.policy('R', 2, Membership::Members);
            },
            'Y',
            Action::Write,
            5,
            LAST,
            STRANGER,
        ),
        (
            "a revision that leaps doesn't count",
            |w| {
                with_admin(w);
                w.policy('A', 1026, Membership::Open);
            },
            'Y',
            Action::Write,
            5,
            LAST,
            STRANGER,
        ),
        (
            "a network that was closed is closed for what is dated back",
            |w| {
                w.clock = 3;
                w.policy('R', 1, Membership::Members);
            },
            'Y',
            Action::Write,
            2,
            LAST,
            STRANGER,
        ),
        (
            "a revoked admin's policy is void",
            |w| {
                with_admin(w);
                w.policy('A', 2, Membership::Open);
                w.revoke('R', "A", None);
            },
            'Y',
            Action::Write,
            5,
            LAST,
            STRANGER,
        ),
        ("issuers broadcast", members_only, 'I', Action::Broadcast, 5, LAST, OK),
        ("admins broadcast", with_admin, 'A', Action::Broadcast, 5, LAST, OK),
        ("moderators don't broadcast", with_moderator, 'M', Action::Broadcast, 5, LAST, ROLE),
    ]
}
