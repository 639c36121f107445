//! [driver] Panics of simulated tasks: tokio swallows them, a run must not.
//!
//! The hook records panics of threads that simulate; all panics then go to the hook before it.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static CAUGHT: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Records the panics of this thread from here on.
pub fn watch() {
    HOOK.call_once(|| {
        let former = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            CAUGHT.with(|caught| {
                if let Ok(mut caught) = caught.try_borrow_mut()
                    && let Some(caught) = caught.as_mut()
                {
                    caught.push(info.to_string().replace('\n', " "));
                }
            });
            former(info);
        }));
    });
    CAUGHT.with(|caught| *caught.borrow_mut() = Some(Vec::new()));
}

/// The panics of this thread since [`watch`]; stops watching.
#[must_use]
pub fn take() -> Vec<String> {
    CAUGHT.with(|caught| caught.borrow_mut().take().unwrap_or_default())
}

/// Whether a panic was recorded.
#[must_use]
pub fn has_any() -> bool {
    CAUGHT.with(|caught| caught.borrow().as_ref().is_some_and(|all| !all.is_empty()))
}
