//! One HTTP exchange: Envoy's callbacks in, the pipeline's steps out. Holds the state, decides nothing.

use crate::audit::Checks;
use crate::credentials::Missing;
use crate::facts::RequestHeaders;
use crate::ids::RequestId;
use crate::intent::Ready;
use crate::meter::Watch;
use crate::named;
use crate::ownership::Rewritten;
use crate::request_body::Body;
use crate::revoked::VerifiedToken;
use crate::settings::Settings;
use crate::shadow;
use crate::vm::Active;
use decision_core::budget::BudgetId;
use decision_core::decision::{Permit, Target};
use decision_core::gateway::Method;
use decision_core::holder::{Reservations, Wait};
use decision_core::policy::RouteId;
use decision_core::principal::Principal;
use decision_core::time::Timestamp;
use metering::Asked;
use rules::Ruling;
use std::rc::Rc;
use std::sync::Arc;

/// What is known about one request, from its arrival to its record.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) settings: Rc<Settings>,
    pub(crate) headers: RequestHeaders,
    pub(crate) trace: Trace,
    pub(crate) state: State,
    pub(crate) body: Body,
    /// How the backend's request will differ, by the last judgement.
    pub(crate) rewritten: Rewritten,
    /// What a request that is priced by tokens asks for, by the last judgement.
    pub(crate) asked: Option<Box<Asked>>,
}

/// What the record will say.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) arrived: Timestamp,
    pub(crate) request_id: RequestId,
    pub(crate) active: Option<Rc<Active>>,
    pub(crate) revocation: u64,
    pub(crate) principal: Option<Rc<Principal>>,
    /// The token that was accepted: it may be revoked before the request goes on.
    pub(crate) token: Option<Rc<VerifiedToken>>,
    pub(crate) method: Option<Method>,
    pub(crate) route: Option<RouteId>,
    pub(crate) checks: Checks,
    pub(crate) noted: Noted,
    pub(crate) shadow: Option<shadow::Sample>,
    pub(crate) verdict: Verdict,
    /// The budget that had nothing left, or whose account cannot be named.
    pub(crate) refusing_budget: Option<BudgetId>,
    /// What the custom rules said, where they were asked.
    pub(crate) ruling: Option<Arc<Ruling>>,
    pub(crate) approval_id: Option<String>,
    pub(crate) target: Option<Target>,
    /// When it was looked at last: the clock is asked once for each time.
    pub(crate) looked_at: Timestamp,
    pub(crate) forwarded_at: Option<Timestamp>,
    /// When the filter answered in the backend's place.
    pub(crate) answered_at: Option<Timestamp>,
    pub(crate) responded_at: Option<Timestamp>,
    pub(crate) status: Option<u16>,
    /// Headers of the answer that the policy names.
    pub(crate) answer_headers: Vec<named::Kept>,
}

/// What is done once for a request, however often it is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) held: Once,
    pub(crate) client: Once,
    pub(crate) shadow: Once,
}

/// Whether something was done already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Once {
    #[default]
    NotYet,
    Done,
}

/// How the request was answered by us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) decision: Verdicts,
    pub(crate) reason: &'static str,
}

/// The overall outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verdicts {
    /// Not decided: Envoy answered, or the client left.
    #[default]
    None,
    Permit,
    Deny,
    Indeterminate,
}

impl Verdicts {
    /// Its name in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Permit => "permit",
            Self::Deny => "deny",
            Self::Indeterminate => "indeterminate",
        }
    }
}

/// How far an exchange has come. What survives between callbacks is moved from one state to the next.
#[derive(Debug, Default)]
pub(crate) enum State {
    /// The request's headers have not been seen.
    #[default]
    New,
    /// Something is not known yet without which it cannot be judged.
    AwaitingKnowledge { missing: Missing, until: Timestamp },
    /// The body is needed: to bind an approval to it, or to write the customer id into it. It may be so large.
    AwaitingBody { most: usize },
    /// A lease has to grow.
    AwaitingLease { permit: Permit, wait: Box<Wait>, until: Timestamp },
    /// The control plane is asked about an approval.
    AwaitingApproval { permit: Permit, held: Reservations, until: Timestamp, consumes: Consumes },
    /// That it is about to go on has to be stored.
    AwaitingIntent { ready: Ready, until: Timestamp },
    /// Towards the backend.
    Forwarded { held: Reservations, consumes: Consumes, watch: Watch },
    /// We answered.
    Replied,
    /// Recorded.
    Finished,
}

/// Whether an approval is consumed by the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consumes {
    Nothing,
    Approval,
}

impl Exchange {
    pub(crate) fn new(settings: Rc<Settings>) -> Self {
        let (headers, trace) = (RequestHeaders::default(), Trace::default());
        Self { settings, headers, trace, state: State::New, body: Body::Open, rewritten: Rewritten::default(), asked: None }
    }

    /// Whether it waits for something to become known.
    pub(crate) const fn is_awaiting_knowledge(&self) -> bool {
        matches!(self.state, State::AwaitingKnowledge { .. })
    }

    /// Until when a held request waits.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        match &self.state {
            State::AwaitingKnowledge { until, .. }
            | State::AwaitingLease { until, .. }
            | State::AwaitingApproval { until, .. }
            | State::AwaitingIntent { until, .. } => Some(*until),
            State::New | State::AwaitingBody { .. } | State::Forwarded { .. } | State::Replied | State::Finished => None,
        }
    }
}

#[cfg(target_arch = "wasm32")]
pub(crate) use stream::Stream;

#[cfg(target_arch = "wasm32")]
mod stream {
    use super::Exchange;
    use crate::host::{Envoy, Host};
    use crate::pipeline::{self, Step};
    use crate::response;
    use crate::root;
    use crate::settings::Settings;
    use crate::vm::{Vm, Waiting};
    use proxy_wasm::traits::{Context, HttpContext};
    use proxy_wasm::types::Action;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// Envoy's callbacks for one stream.
    pub(crate) struct Stream {
        context: u32,
        vm: Rc<RefCell<Vm>>,
        exchange: Rc<RefCell<Exchange>>,
    }

    impl Stream {
        pub(crate) fn new(context: u32, vm: Rc<RefCell<Vm>>, settings: Rc<Settings>) -> Self {
            Self { context, vm, exchange: Rc::new(RefCell::new(Exchange::new(settings))) }
        }

        fn follow(&self, step: Step) -> Action {
            match step {
                Step::Forward => Action::Continue,
                Step::Answered | Step::NeedsBody => Action::Pause,
                Step::Held => {
                    let held = Waiting { context: self.context, exchange: Rc::clone(&self.exchange) };
                    root::hold(&mut self.vm.borrow_mut(), &Envoy, held, Envoy.now());
                    Action::Pause
                }
            }
        }
    }

    impl Context for Stream {}

    impl HttpContext for Stream {
        fn on_http_request_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
            let step = pipeline::begin(&mut self.exchange.borrow_mut(), &mut self.vm.borrow_mut(), &Envoy, end_of_stream);
            self.follow(step)
        }

        fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
            let step = pipeline::body(&mut self.exchange.borrow_mut(), &mut self.vm.borrow_mut(), &Envoy, size, end_of_stream);
            step.map_or(Action::Pause, |step| self.follow(step))
        }

        fn on_http_request_trailers(&mut self, _: usize) -> Action {
            let step = pipeline::body(&mut self.exchange.borrow_mut(), &mut self.vm.borrow_mut(), &Envoy, 0, true);
            step.map_or(Action::Pause, |step| self.follow(step))
        }

        fn on_http_response_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
            response::headers(&mut self.exchange.borrow_mut(), &self.vm.borrow(), &Envoy, end_of_stream);
            Action::Continue
        }

        fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
            response::body(&mut self.exchange.borrow_mut(), &Envoy, size, end_of_stream);
            Action::Continue
        }

        fn on_http_response_trailers(&mut self, _: usize) -> Action {
            response::trailers(&mut self.exchange.borrow_mut(), &Envoy);
            Action::Continue
        }

        fn on_log(&mut self) {
            pipeline::finish(&mut self.exchange.borrow_mut(), &mut self.vm.borrow_mut(), &Envoy);
        }
    }
}
