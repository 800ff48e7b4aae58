//! An operator: asks any node for another ring, looks at the ring anew after each refusal, and asks again until the ring
//! is what it is to be.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use dynakv_protocol::change_ring::{ChangeRing, MemberWish, RingWish};
use dynakv_protocol::ids::{NodeId, RingVersion};
use dynakv_protocol::ring_document::{ChangePhase, Member, RingDocument, Stake, Step};
use tokio::time::sleep;

use crate::chaos::CHANGED_FROM;
use crate::client::Client;
use crate::clock;
use crate::history::History;
use crate::invariants::change_ends;
use crate::machine::machine_name;
use crate::settle::CHANGED_WITHIN;
use crate::world::zone;

/// The pause between two looks at the ring, in milliseconds.
const LOOK_MS: std::ops::Range<u64> = 100..600;

/// What is to become of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    /// It waits for that, and comes in.
    Join,
    /// It hands on what it has, and goes.
    Leave,
    /// It counts as dead, and is not waited for.
    Remove,
    /// It has this weight.
    Weigh(u16),
    /// It lies in the zone of this number, with the weight that it has at the beginning.
    LieIn(usize),
}

/// One change of the ring, and when it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) at: Duration,
    pub(crate) wishes: Vec<(usize, To)>,
    /// It is given up as soon as it has begun, if it can be, and asked for once more.
    pub(crate) is_given_up: bool,
    /// One node decides on it by itself.
    pub(crate) is_forced: bool,
    /// Who is to leave is off for good at some time, and is removed instead where the change has not begun by then.
    pub(crate) dies: Option<Dies>,
}

/// What an operator says where who leaves is gone while the ring changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dies {
    /// That nobody is to wait for it.
    Told,
    /// Nothing.
    Untold,
}

impl Order {
    pub(crate) fn new(at: Duration, wishes: &[(usize, To)]) -> Self {
        Self {
            at,
            wishes: wishes.to_vec(),
            is_given_up: false,
            is_forced: false,
            dies: None,
        }
    }
}

pub(crate) struct Operator {
    client: Client,
    random: fastrand::Rng,
    history: Rc<RefCell<History>>,
    /// The stakes that the members are to have.
    stakes: BTreeMap<NodeId, Stake>,
    /// The newest ring that was seen.
    newest: RingVersion,
    /// The present order is to be given up still.
    gives_up: bool,
    /// It is forced.
    forces: bool,
}

impl Operator {
    pub(crate) fn new(
        client: Client,
        random: fastrand::Rng,
        history: Rc<RefCell<History>>,
    ) -> Self {
        let founders = 0..client.founders();
        let stake = |node| stake(1, client.zone(node));
        Self {
            stakes: founders.map(|node| (id(node), stake(node))).collect(),
            client,
            random,
            history,
            newest: RingVersion(0),
            gives_up: false,
            forces: false,
        }
    }

    /// Carries out one order after the other.
    pub(crate) async fn run(mut self, orders: Vec<Order>) -> turmoil::Result {
        self.client.wait_for_cluster().await;
        let deadline = CHANGED_FROM + CHANGED_WITHIN;
        for order in &orders {
            sleep(order.at.saturating_sub(clock::now())).await;
            self.expect(order);
            self.gives_up = order.is_given_up;
            self.forces = order.is_forced;
            while !self.is_done(order).await {
                if clock::now() >= deadline {
                    let what = format!("{order:?} is not carried out");
                    self.history.borrow_mut().violate(change_ends::NAME, what);
                    return Ok(());
                }
                let pause = Duration::from_millis(self.random.u64(LOOK_MS));
                sleep(pause).await;
            }
        }
        self.client.reached(self.newest);
        Ok(())
    }

    /// Which members there are to be once this is done.
    fn expect(&mut self, order: &Order) {
        for &(node, to) in &order.wishes {
            match self.stake(node, to) {
                Some(stake) => self.stakes.insert(id(node), stake),
                None => self.stakes.remove(&id(node)),
            };
        }
    }

    /// What a machine has after that; nothing for one that goes.
    fn stake(&self, node: usize, to: To) -> Option<Stake> {
        match to {
            To::Join => Some(stake(1, self.client.zone(node))),
            To::Leave | To::Remove => None,
            To::Weigh(weight) => Some(stake(weight, self.client.zone(node))),
            To::LieIn(number) => Some(stake(1, zone(number))),
        }
    }

    /// Looks at the ring as some node has it, and asks that node to change it if it is not changing. True once it is what it
    /// is to be.
    async fn is_done(&mut self, order: &Order) -> bool {
        let node = self.random.usize(..self.client.machines());
        let Ok(ring) = self.client.ring(node).await else {
            return false;
        };
        // One that lags says nothing, and whoever plans on it is refused.
        let is_news = ring.version >= self.newest;
        self.newest = self.newest.max(ring.version);
        match &ring.step {
            Step::Final if is_news && self.is_as_wished(&ring) => {
                let at = ring.version.0;
                self.client
                    .line(&format!("{:?} is done, ring {at}", order.wishes));
                return true;
            }
            Step::Changing(change) => {
                if self.gives_up && change.phase == ChangePhase::WriteBoth {
                    self.give_up(node, ring.version).await;
                }
                if order.dies == Some(Dies::Told) && change.stopped.is_empty() {
                    let gone = self.wishes(&order.wishes, To::Remove).await;
                    let gone = RingWish::Members(gone.unwrap_or_default());
                    self.ask(node, ring.version, gone).await;
                }
                return false;
            }
            Step::Open | Step::Final => {}
        }
        let leaving = match order.dies.is_some() && self.random.bool() {
            true => To::Remove,
            false => To::Leave,
        };
        let Some(wishes) = self.wishes(&order.wishes, leaving).await else {
            return false;
        };
        let begun = self
            .ask(node, ring.version, RingWish::Members(wishes))
            .await;
        if let Some(begun) = begun.filter(|_| self.gives_up) {
            self.give_up(node, begun).await;
        }
        false
    }

    fn is_as_wished(&self, ring: &RingDocument) -> bool {
        let stakes = ring.members.iter();
        let stakes = stakes.map(|it| (it.id.clone(), stake(it.weight, it.zone.clone())));
        stakes.collect::<BTreeMap<_, _>>() == self.stakes
    }

    async fn give_up(&mut self, node: usize, version: RingVersion) {
        let given_up = self.ask(node, version, RingWish::Abort).await;
        if given_up.is_some() {
            self.gives_up = false;
            self.client.given_up();
        }
    }

    /// What is to be asked for, where who leaves is asked to do this; nothing as long as nobody knows who waits.
    async fn wishes(&mut self, wishes: &[(usize, To)], leaving: To) -> Option<Vec<MemberWish>> {
        let mut asked = Vec::new();
        for &(node, to) in wishes {
            let id = id(node);
            let to = if to == To::Leave { leaving } else { to };
            asked.push(match (to, self.stake(node, to)) {
                (To::Join, _) => MemberWish::Joins(self.waiting(&id).await?),
                (To::Remove, _) => MemberWish::IsGone(id),
                (_, None) => MemberWish::Leaves(id),
                (_, Some(stake)) => MemberWish::HasStake(id, stake),
            });
        }
        Some(asked)
    }

    /// The node of this name that waits to be let in, as somebody says.
    async fn waiting(&mut self, id: &NodeId) -> Option<Member> {
        for node in 0..self.client.founders() {
            let Ok(status) = self.client.status(node).await else {
                continue;
            };
            let mut waiting = status.waiting.into_iter();
            if let Some(member) = waiting.find(|member| member.id == *id) {
                return Some(member);
            }
        }
        None
    }

    /// The version of the ring that was decided, if one was.
    async fn ask(
        &mut self,
        node: usize,
        planned_on: RingVersion,
        wish: RingWish,
    ) -> Option<RingVersion> {
        let line = format!("asks {} on ring {}: {wish:?}", node + 1, planned_on.0);
        self.client.line(&line);
        let change = ChangeRing {
            planned_on,
            is_plan: false,
            // Who is gone may have kept a hint that counts: it is a disk less, as far as was promised.
            accept_loss: true,
            is_forced: self.forces,
            wish,
        };
        let answer = self.client.change_ring(node, change).await;
        let line = match &answer {
            Ok(ring) => format!("ring {}, {}", ring.version.0, ring.step.name()),
            Err(failure) => failure.to_string(),
        };
        self.client
            .line(&format!("is answered by {}: {line}", node + 1));
        let version = answer.ok()?.version;
        self.newest = self.newest.max(version);
        Some(version)
    }
}

fn stake(weight: u16, zone: String) -> Stake {
    Stake { weight, zone }
}

fn id(node: usize) -> NodeId {
    NodeId::new(&machine_name(node)).expect("a name of a machine is one of a node")
}
