//! Customers, as the operator asks about them: their invoices and the link to their own page, seed phase 70.

use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api},
};
use crate::{
    error::Result,
    operations::{invoices, portal_link},
};

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // Invoices over all customers with this address.
        api(shell, Method::GET, "/api/customer/invoices/{email}", Scope::Read, list),
        // A link by which the customer sees them too.
        api(shell, Method::GET, "/api/customer/signed-url/{email}", Scope::Operate, link),
    ])
}

async fn list(call: Call) -> Result<Response> {
    Ok(respond::json(&invoices::customer_invoices(call.env(), call.request.param(0)?).await?))
}

async fn link(call: Call) -> Result<Response> {
    Ok(respond::json(&portal_link::mint(call.env(), call.request.param(0)?, &call.caller.key_id).await?))
}
