package adminapi

import (
	"encoding/json"
	"net/url"
	"time"
)

// SpendingPath is where a caller of a budget is.
func SpendingPath(budget, client string) string {
	return BudgetsPath + "/" + url.PathEscape(budget) + "/clients/" + url.PathEscape(client)
}

// Budgets is what the admin endpoint tells of the budgets that run.
type Budgets struct {
	Budgets []Budget `json:"budgets"`
}

// Budget is what the callers of one budget have spent.
type Budget struct {
	Name    string     `json:"name"`
	Clients []Spending `json:"clients"`
}

// Spending is what one caller has spent, here and at other replicas as far as
// it is known here.
type Spending struct {
	// What {http.auth.user.id} is for it.
	Name string `json:"name"`

	// How many of its requests are under way here, and how many tokens are
	// reserved for them.
	UnderWay int   `json:"under_way"`
	Reserved int64 `json:"reserved_tokens"`

	// The present windows, the shortest first.
	Windows []Window `json:"windows"`
}

// Window is what a caller has spent in one window.
type Window struct {
	// As the config has it, such as "1h".
	Window string    `json:"window"`
	Began  time.Time `json:"began"`
	Resets time.Time `json:"resets"`

	// What counts against the limits; 0 as a limit is none.
	Requests      int64 `json:"requests"`
	RequestsLimit int64 `json:"requests_limit,omitempty"`
	Tokens        int64 `json:"tokens"`
	TokensLimit   int64 `json:"tokens_limit,omitempty"`

	// In the unit of the operator's prices; "" as the limit is none.
	Cost      json.Number `json:"cost,omitempty"`
	CostLimit json.Number `json:"cost_limit,omitempty"`

	// What the tokens were, before anything was forgiven. Cached tokens are a
	// part of the input, reasoning ones of the output, estimated ones of both.
	Input     int64 `json:"input_tokens"`
	Cached    int64 `json:"cached_input_tokens"`
	Output    int64 `json:"output_tokens"`
	Reasoning int64 `json:"reasoning_tokens"`
	Estimated int64 `json:"estimated_tokens"`

	// The same by the models that answered, before anything was forgiven.
	Models []Model `json:"models,omitempty"`
}

// Model is what a caller has spent on one model.
type Model struct {
	Model    string      `json:"model"`
	Requests int64       `json:"requests"`
	Tokens   int64       `json:"tokens"`
	Cost     json.Number `json:"cost,omitempty"`
}
