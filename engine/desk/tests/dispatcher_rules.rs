//! One test per rule of presence, assignment, loss of an agent and the deadlines.

mod world;

use ringdesk_desk::Limits;
use ringdesk_desk::command::{Answer, Availability, Command, Refusal};
use ringdesk_desk::event::{Cause, Event, Note, Status};
use ringdesk_desk::ids::{AgentId, ConversationId, DeviceId, Hlc, Party};
use world::{SITE, SITE_SLOT, VISITOR_SLOT, World, agent, tiny, visitor};

/// Conversations that wait: visitors "0", "1", ... in this order.
fn queued(world: &mut World, count: usize) -> Vec<ConversationId> {
    let ids = (0..count).map(|number| {
        let name = number.to_string();
        let id = world.opened(&name);
        assert!(world.send(id, visitor(&name), (1, 1), 0, "x").is_ok());
        world.drain();
        id
    });
    ids.collect()
}

fn owner(world: &World, id: ConversationId) -> Option<u32> {
    world.view(id).agent.map(|agent| agent.0)
}

#[test]
fn who_waits_longest_goes_first() {
    let mut world = World::new(Limits::default());
    let ids = queued(&mut world, 3);
    assert_eq!(world.site().waiting().map(|(id, _)| id).collect::<Vec<_>>(), ids);
    assert_eq!(world.site().oldest_since(), Some(world.view(ids[0]).since));
    assert_eq!(world.site().waiting_count(), 3);
    world.staff(7, 2);
    world.drain();
    assert_eq!(ids.iter().map(|id| owner(&world, *id)).collect::<Vec<_>>(), [Some(7), Some(7), None]);
    assert_eq!(world.view(ids[2]).status, Status::Queued);
    assert!(world.resolve(ids[0], agent(7), (1, 1), 1).is_ok());
    world.drain();
    assert_eq!(owner(&world, ids[2]), Some(7), "a freed agent takes the next");
}

#[test]
fn the_least_loaded_agent_gets_it() {
    let mut world = World::new(Limits::default());
    world.staff(1, 4);
    world.staff(2, 2);
    let ids = queued(&mut world, 6);
    // Loads per capacity: 0/4 0/2 (1 is idle longer), 1/4 0/2, 1/4 1/2, 2/4 1/2 (fewer first), 2/4 2/2, 3/4 2/2.
    let owners: Vec<_> = ids.iter().filter_map(|id| owner(&world, *id)).collect();
    assert_eq!(owners, [1, 2, 1, 2, 1, 1]);
}

#[test]
fn agents_that_may_not_take_any_get_none() {
    let mut world = World::new(Limits::default());
    world.staff(1, 0);
    world.staff(2, 1);
    assert!(world.declare(2, 2, Availability::Away, 1).is_ok());
    assert!(world.declare(3, 1, Availability::Online, 1).is_ok());
    assert!(world.link(4).is_ok());
    let ids = queued(&mut world, 1);
    assert_eq!(owner(&world, ids[0]), None, "no capacity, away, no session, never declared");
    assert!(world.link(3).is_ok());
    world.drain();
    assert_eq!(owner(&world, ids[0]), Some(3));
}

#[test]
fn a_repeated_presence_changes_nothing() {
    let mut world = World::new(tiny());
    world.staff(1, 1);
    assert!(world.declare(1, 5, Availability::Away, 3).is_ok(), "gaps are allowed: only the newest counts");
    assert_eq!(world.declare(1, 5, Availability::Away, 3), Ok(Answer::Duplicate { seq: 0 }));
    assert!(world.last.is_empty());
    for (availability, capacity) in [(Availability::Offline, 3), (Availability::Away, 9)] {
        assert_eq!(world.declare(1, 5, availability, capacity), Err(Refusal::IdReused));
    }
    for n in 1..=4 {
        let lost_count = Err(Refusal::OutOfOrder { expected: 6 });
        assert_eq!(world.declare(1, n, Availability::Offline, 9), lost_count);
        assert_eq!(world.declare(1, n, Availability::Away, 3), lost_count);
    }
    let view = world.site().agent(AgentId(1)).expect("declared");
    assert_eq!((view.availability, view.capacity), (Availability::Away, 3));
    assert_eq!(world.declare(1, 6, Availability::Online, 1001), Err(Refusal::Invalid));
    assert_eq!(world.declare(1, 0, Availability::Online, 1), Err(Refusal::Invalid));
    assert_eq!(world.declare(0, 1, Availability::Online, 1), Err(Refusal::Invalid));
    for agent in 2..=4 {
        assert!(world.declare(agent, 1, Availability::Online, 1).is_ok());
    }
    assert_eq!(world.declare(5, 1, Availability::Online, 1), Err(Refusal::Busy));
    assert_eq!(world.link(5), Err(Refusal::Busy));
}

#[test]
fn links_are_counted_and_never_below_zero() {
    let mut world = World::new(Limits::default());
    assert_eq!(world.unlink(1), Ok(Answer::Done));
    assert!(world.last.is_empty());
    for _ in 0..2 {
        assert!(world.link(1).is_ok());
    }
    assert_eq!(world.site().agent(AgentId(1)).map(|agent| agent.links), Some(2));
    for _ in 0..3 {
        assert!(world.unlink(1).is_ok());
    }
    assert_eq!(world.site().agent(AgentId(1)).map(|agent| agent.links), Some(0));
}

#[test]
fn going_offline_gives_everything_back_at_once() {
    let mut world = World::new(Limits::default());
    world.staff(1, 2);
    let ids = queued(&mut world, 2);
    let since = world.view(ids[0]).since;
    world.staff(2, 1);
    assert!(world.declare(1, 2, Availability::Offline, 2).is_ok());
    world.drain();
    assert_eq!(ids.iter().map(|id| owner(&world, *id)).collect::<Vec<_>>(), [Some(2), None]);
    assert_eq!(world.view(ids[0]).epoch, 2);
    assert_eq!(world.view(ids[0]).since, since, "it waits as long as it has waited");
    assert_eq!(world.desk.next_deadline(), None);
}

#[test]
fn away_keeps_what_it_has() {
    let mut world = World::new(Limits::default());
    world.staff(1, 2);
    let ids = queued(&mut world, 1);
    assert!(world.declare(1, 2, Availability::Away, 2).is_ok());
    world.pass_ms(600_000);
    world.drain();
    assert_eq!(owner(&world, ids[0]), Some(1));
}

#[test]
fn a_lost_agent_keeps_its_conversations_for_the_grace_period() {
    let mut world = World::new(Limits::default());
    world.staff(1, 1);
    let ids = queued(&mut world, 1);
    assert!(world.unlink(1).is_ok());
    let due = Hlc(world.now.0 + (30_000 << 16));
    assert_eq!(world.desk.next_deadline(), Some((due, SITE_SLOT)));
    world.pass_ms(29_999);
    assert_eq!(world.run(&Command::Tick { slot: SITE_SLOT }), Ok(Answer::Done));
    assert!(world.last.is_empty(), "early");
    assert!(world.link(1).is_ok());
    assert_eq!(world.desk.next_deadline(), None, "a new session in time ends the grace period");
    assert!(world.unlink(1).is_ok());
    world.pass_ms(30_001);
    world.drain();
    assert_eq!((world.view(ids[0]).status, owner(&world, ids[0])), (Status::Queued, None));
    assert_eq!(world.desk.next_deadline(), None);
    assert!(world.link(1).is_ok());
    world.drain();
    assert_eq!(owner(&world, ids[0]), None, "its word has lapsed");
    assert!(world.declare(1, 2, Availability::Online, 1).is_ok());
    world.drain();
    assert_eq!((owner(&world, ids[0]), world.view(ids[0]).epoch), (Some(1), 2));
}

fn availability(world: &World, agent: u32) -> Option<Availability> {
    world.site().agent(AgentId(agent)).map(|agent| agent.availability)
}

#[test]
fn the_word_of_an_agent_lapses_with_the_grace_period_whether_it_has_conversations_or_not() {
    let mut world = World::new(Limits::default());
    world.staff(1, 2);
    assert!(world.unlink(1).is_ok());
    world.pass_ms(29_000);
    assert!(world.link(1).is_ok());
    assert_eq!(availability(&world, 1), Some(Availability::Online), "back in time: it goes on");
    assert!(world.unlink(1).is_ok());
    world.pass_ms(30_001);
    world.run(&Command::Tick { slot: SITE_SLOT }).expect("a tick is never refused");
    assert!(matches!(world.last[..], [Event::AgentLapsed { agent: AgentId(1), .. }]), "{:?}", world.last);
    assert_eq!(world.desk.next_deadline(), None);
    assert!(world.link(1).is_ok());
    let waits = queued(&mut world, 1)[0];
    assert_eq!((owner(&world, waits), availability(&world, 1)), (None, Some(Availability::Offline)));
    assert!(world.replayed().digest() == world.desk.digest());
    // The same PRESENCE again: its ACK was lost, and the client must not believe that it is online when it is not.
    assert_eq!(world.declare(1, 1, Availability::Away, 2), Err(Refusal::IdReused));
    assert_eq!(world.declare(1, 1, Availability::Online, 2), Ok(Answer::Done));
    world.drain();
    assert_eq!(owner(&world, waits), Some(1));
    assert_eq!(world.declare(1, 1, Availability::Online, 2), Ok(Answer::Duplicate { seq: 0 }));
    assert!(world.replayed().digest() == world.desk.digest());
}

/// A link can wait for room in the log while the PRESENCE behind it is taken.
#[test]
fn a_word_before_its_session_starts_the_grace_period_anew() {
    let mut world = World::new(Limits::default());
    world.staff(1, 1);
    assert!(world.unlink(1).is_ok());
    world.pass_ms(40_000);
    world.drain();
    assert_eq!(availability(&world, 1), Some(Availability::Offline));
    assert!(world.declare(1, 2, Availability::Online, 1).is_ok());
    world.drain();
    assert!(world.link(1).is_ok());
    world.drain();
    assert_eq!(availability(&world, 1), Some(Availability::Online));
    assert!(world.replayed().digest() == world.desk.digest());
}

#[test]
fn who_lost_a_conversation_is_told() {
    let mut world = World::new(Limits::default());
    world.staff(1, 1);
    let id = queued(&mut world, 1)[0];
    assert!(world.unlink(1).is_ok());
    world.pass_ms(30_001);
    world.drain();
    let lost = world.log.iter().flat_map(|record| ringdesk_desk::codec::decode(record).expect("our own"));
    let by = lost.filter_map(|event| match event {
        Event::Changed { conversation, cause: Cause::AgentLost, by, agent: None, .. }
            if conversation == id =>
        {
            Some(by)
        }
        _ => None,
    });
    assert_eq!(by.collect::<Vec<_>>(), [Party::Agent(AgentId(1))]);
}

#[test]
fn downtime_does_not_count() {
    let mut world = World::new(Limits::default());
    world.staff(1, 1);
    let ids = queued(&mut world, 1);
    world.pass_ms(3_600_000);
    assert_eq!(world.desk.slots_to_boot(), vec![SITE_SLOT]);
    world.crash();
    assert_eq!(world.site().agent(AgentId(1)).map(|agent| agent.links), Some(0));
    let due = Hlc(world.now.0 + (30_000 << 16));
    assert_eq!(world.desk.next_deadline(), Some((due, SITE_SLOT)));
    world.pass_ms(20_000);
    world.crash();
    world.pass_ms(29_000);
    world.drain();
    assert_eq!(owner(&world, ids[0]), Some(1), "each boot starts the grace period again");
    world.pass_ms(2_000);
    world.drain();
    assert_eq!(owner(&world, ids[0]), None);
}

#[test]
fn a_crash_between_two_logs_loses_no_assignment() {
    let mut world = World::new(Limits::default());
    world.staff(1, 1);
    let id = world.opened("ann");
    assert!(world.send(id, visitor("ann"), (1, 1), 0, "x").is_ok());
    world.crash();
    let unconfirmed: Vec<_> = world.desk.unconfirmed().map(|(from, to, n, _)| (from, to, n)).collect();
    assert_eq!(unconfirmed, vec![(VISITOR_SLOT, SITE_SLOT, 1)]);
    assert!(world.link(1).is_ok());
    world.deliver((VISITOR_SLOT, SITE_SLOT), false);
    world.crash();
    world.drain();
    assert_eq!(owner(&world, id), Some(1));
    assert_eq!(world.desk.unconfirmed().count(), 0);
}

#[test]
fn a_decision_moves_no_more_than_its_bound_and_the_rest_is_due() {
    let mut world = World::new(tiny());
    queued(&mut world, 8);
    world.staff(1, 8);
    let placed = world.last.iter().filter(|event| matches!(event, Event::Placed { .. })).count();
    assert_eq!(placed, 3);
    assert_eq!(world.desk.next_deadline(), Some((Hlc(0), SITE_SLOT)));
    world.run(&Command::Tick { slot: SITE_SLOT }).expect("a tick is never refused");
    assert_eq!(world.site().waiting_count(), 2);
    assert_eq!(world.desk.notes_outstanding(SITE_SLOT), 6);
    assert_eq!(world.desk.next_deadline(), None, "its notes are at their bound");
    world.run(&Command::Tick { slot: SITE_SLOT }).expect("a tick is never refused");
    assert!(world.last.is_empty());
    world.run(&Command::Confirm { from: SITE_SLOT, to: VISITOR_SLOT, upto: 1 }).expect("it was told");
    assert_eq!(world.desk.next_deadline(), Some((Hlc(0), SITE_SLOT)), "a confirmation makes room");
    world.drain();
    assert_eq!(world.site().waiting_count(), 0);
    assert!(world.declare(1, 2, Availability::Offline, 8).is_ok());
    let returned = world.last.iter().filter(|event| matches!(event, Event::Returned { .. })).count();
    assert_eq!(returned, 3);
    assert_eq!(world.desk.next_deadline(), Some((Hlc(0), SITE_SLOT)));
    world.drain();
    assert_eq!(world.site().waiting_count(), 8);
    assert_eq!(world.site().agent(AgentId(1)).map(|agent| agent.load), Some(0));
}

#[test]
fn lowered_capacity_takes_nothing_away() {
    let mut world = World::new(Limits::default());
    world.staff(1, 3);
    let ids = queued(&mut world, 3);
    assert!(world.declare(1, 2, Availability::Online, 1).is_ok());
    world.drain();
    assert!(ids.iter().all(|id| owner(&world, *id) == Some(1)));
    assert_eq!(queued_one_more(&mut world), None);
}

fn queued_one_more(world: &mut World) -> Option<u32> {
    let id = world.opened("late");
    assert!(world.send(id, visitor("late"), (1, 1), 0, "x").is_ok());
    world.drain();
    owner(world, id)
}

/// The order that once could give an epoch out twice: a placement and its return cross a resolve and a reopen.
#[test]
fn an_epoch_that_crossed_a_reopen_is_not_given_out_again() {
    let mut world = World::new(Limits::default());
    world.staff(1, 1);
    let id = world.opened("ann");
    assert!(world.send(id, visitor("ann"), (1, 1), 0, "x").is_ok());
    world.deliver((VISITOR_SLOT, SITE_SLOT), false);
    assert!(world.declare(1, 2, Availability::Offline, 1).is_ok());
    assert_eq!(world.mail[&(SITE_SLOT, VISITOR_SLOT)].len(), 2, "Assign 1 and Unassign 1 are on their way");
    assert!(world.resolve(id, visitor("ann"), (1, 2), 0).is_ok());
    assert!(world.send(id, visitor("ann"), (1, 3), 0, "y").is_ok());
    world.deliver((VISITOR_SLOT, SITE_SLOT), false);
    world.deliver((VISITOR_SLOT, SITE_SLOT), false);
    world.staff(2, 1);
    world.drain();
    assert_eq!((owner(&world, id), world.view(id).epoch), (Some(2), 2));
    assert_eq!(world.site().placed(AgentId(2)).collect::<Vec<_>>(), vec![(id, 2)]);
}

#[test]
fn what_cannot_be_told_is_refused_without_a_panic() {
    let mut world = World::new(Limits::default());
    let id = ConversationId::new(VISITOR_SLOT, 1);
    let (from, to) = (SITE_SLOT, VISITOR_SLOT);
    let assign = |agent, epoch| Note::Assign { conversation: id, agent: AgentId(agent), epoch };
    assert_eq!(world.run(&Command::Hear { from, to, n: 1, note: assign(0, 1) }), Err(Refusal::Invalid));
    assert_eq!(
        world.run(&Command::Hear { from, to, n: 1, note: assign(1, u32::MAX) }),
        Err(Refusal::Invalid)
    );
    let heard = Ok(Answer::Heard { upto: 1 });
    assert_eq!(world.run(&Command::Hear { from, to, n: 1, note: assign(1, 1) }), heard);
    assert_eq!(world.last.len(), 1, "an unknown conversation takes no agent");
    let device = DeviceId(1);
    let site_slot = ringdesk_desk::ids::Slot(16_384);
    let open = Command::Open { slot: VISITOR_SLOT, site_slot, site: SITE, visitor: "ann", device, n: 1 };
    assert_eq!(world.run(&open), Err(Refusal::Invalid));
    assert_eq!(world.run(&Command::Tick { slot: site_slot }), Err(Refusal::Invalid));
}

/// Pairs are first in, first out, so these notes are never told; a desk that hears one keeps what it knows.
#[test]
fn notes_older_than_what_is_known_change_nothing() {
    let mut world = World::new(Limits::default());
    let waits = queued(&mut world, 1)[0];
    let want = |conversation| Note::Want { site: SITE, conversation, since: Hlc(1), epoch: 0 };
    let hear = |world: &mut World, (from, to), n, note| {
        assert_eq!(world.run(&Command::Hear { from, to, n, note }), Ok(Answer::Heard { upto: n }));
        assert_eq!(world.last.len(), 1, "heard and ignored: {:?}", world.last);
    };
    let (asks, tells) = ((VISITOR_SLOT, SITE_SLOT), (SITE_SLOT, VISITOR_SLOT));
    hear(&mut world, asks, 2, want(waits));
    world.staff(1, 1);
    world.drain();
    assert_eq!((owner(&world, waits), world.view(waits).epoch), (Some(1), 1));
    hear(&mut world, asks, 3, want(waits));
    hear(&mut world, asks, 4, Note::Release { site: SITE, conversation: waits, epoch: 0 });
    hear(&mut world, tells, 2, Note::Assign { conversation: waits, agent: AgentId(9), epoch: 1 });
    hear(&mut world, tells, 3, Note::Unassign { conversation: waits, epoch: 0 });
    assert_eq!((owner(&world, waits), world.view(waits).epoch), (Some(1), 1));
    // A newer assignment is the truth: only the dispatcher places.
    let newer = Note::Assign { conversation: waits, agent: AgentId(9), epoch: 5 };
    world.run(&Command::Hear { from: SITE_SLOT, to: VISITOR_SLOT, n: 4, note: newer }).expect("in order");
    assert_eq!((owner(&world, waits), world.view(waits).epoch), (Some(9), 5));
}

/// The deadline is when a Tick may take conversations back; an agent that returns before that Tick keeps them.
#[test]
fn an_agent_that_is_back_before_the_tick_keeps_its_conversations() {
    let mut world = World::new(Limits::default());
    world.staff(1, 1);
    let ids = queued(&mut world, 1);
    assert!(world.unlink(1).is_ok());
    world.pass_ms(31_000);
    assert!(world.link(1).is_ok());
    assert_eq!(world.last.len(), 1, "the link, and nothing is returned: {:?}", world.last);
    world.drain();
    assert_eq!((owner(&world, ids[0]), world.view(ids[0]).epoch), (Some(1), 1));
}
