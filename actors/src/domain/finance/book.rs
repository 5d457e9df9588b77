//! Both sides of the invoices, indexed by what links them: invoice to payment to intent to charge to ledger row. Built once by
//! `reconcile` and read by the judges. An object that was read twice counts once.

use super::input::{Charge, Dispute, Entry, Input, Invoice, InvoicePayment, LocalInvoice};
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub(super) struct Book<'a> {
    /// By id.
    pub invoices: BTreeMap<&'a str, &'a Invoice>,
    pub charges: BTreeMap<&'a str, &'a Charge>,
    pub local: HashMap<&'a str, &'a LocalInvoice>,
    payments: HashMap<&'a str, Vec<&'a InvoicePayment>>,
    charges_of: HashMap<&'a str, Vec<&'a Charge>>,
    /// Charge to invoice.
    pub invoice_of: HashMap<&'a str, &'a str>,
    disputes: HashMap<&'a str, Vec<&'a Dispute>>,
    ledger: HashMap<&'a str, Vec<&'a Entry>>,
}

/// By id, each once: of two states the greater one, so that the order of reading does not matter.
pub(super) fn unique<T: Ord>(items: &[T], id: impl Fn(&T) -> &str) -> BTreeMap<&str, &T> {
    items.iter().collect::<BTreeSet<_>>().into_iter().map(|item| (id(item), item)).collect()
}

impl<'a> Book<'a> {
    pub(super) fn new(input: &'a Input) -> Self {
        let charges = unique(&input.charges, |c| &c.id);
        let mut by_intent: HashMap<&str, Vec<&Charge>> = HashMap::new();
        for charge in charges.values().filter(|c| c.is_paid()) {
            if let Some(intent) = &charge.payment_intent {
                by_intent.entry(intent).or_default().push(charge);
            }
        }
        let mut payments: HashMap<&str, Vec<&InvoicePayment>> = HashMap::new();
        let (mut charges_of, mut invoice_of): (HashMap<&str, Vec<&Charge>>, HashMap<&str, &str>) = (HashMap::new(), HashMap::new());
        for payment in unique(&input.payments, |p| &p.id).into_values() {
            payments.entry(&payment.invoice).or_default().push(payment);
            let direct = payment.charge.as_deref().and_then(|id| charges.get(id)).copied().filter(|c| c.is_paid());
            let through = payment.payment_intent.as_deref().and_then(|intent| by_intent.get(intent));
            for charge in through.into_iter().flatten().copied().chain(direct) {
                if invoice_of.insert(&charge.id, &payment.invoice).is_none() {
                    charges_of.entry(&payment.invoice).or_default().push(charge);
                }
            }
        }
        let mut disputes: HashMap<&str, Vec<&Dispute>> = HashMap::new();
        for dispute in unique(&input.disputes, |d| &d.id).into_values().filter(|d| d.holds_money()) {
            disputes.entry(dispute.charge.as_deref().unwrap_or_default()).or_default().push(dispute);
        }
        let mut ledger: HashMap<&str, Vec<&Entry>> = HashMap::new();
        for entry in input.ledger.iter().filter(|e| matches!(e.kind.as_str(), "charge" | "adjustment")) {
            ledger.entry(&entry.source).or_default().push(entry);
        }
        Self {
            invoices: unique(&input.invoices, |i| &i.id),
            charges,
            local: unique(&input.local, |l| &l.id).into_iter().collect(),
            payments,
            charges_of,
            invoice_of,
            disputes,
            ledger,
        }
    }

    /// Succeeded charges of an invoice.
    pub(super) fn charges(&self, invoice: &str) -> &[&'a Charge] {
        self.charges_of.get(invoice).map_or(&[], Vec::as_slice)
    }

    /// What its payments say was paid.
    pub(super) fn paid(&self, invoice: &str) -> i64 {
        self.payments.get(invoice).into_iter().flatten().filter(|p| p.status == "paid").map(|p| p.amount_paid).sum()
    }

    /// Disputes of a charge that hold its money.
    pub(super) fn disputes(&self, charge: &str) -> &[&'a Dispute] {
        self.disputes.get(charge).map_or(&[], Vec::as_slice)
    }

    /// Our rows about a charge, corrections among them.
    pub(super) fn rows(&self, charge: &str) -> &[&'a Entry] {
        self.ledger.get(charge).map_or(&[], Vec::as_slice)
    }
}
