//! What is thought of a member, in the words of commands.

use dynakv_client::MemberState;

pub(in crate::cli) fn state_name(state: MemberState) -> &'static str {
    match state {
        MemberState::Alive => "alive",
        MemberState::Suspected => "suspected",
        MemberState::Dead => "dead",
    }
}
