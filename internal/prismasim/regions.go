package prismasim

import (
	"net/http"
	"slices"
)

// defaultRegion is taken where a creation names none.
const defaultRegion = "us-east-1"

// regionInherit asks for the region of the project.
const regionInherit = "inherit"

// regions are Prisma's six, in the order of its documentation.
func regions() []namedView {
	return []namedView{
		{ID: "us-east-1", Name: "US East (N. Virginia)"},
		{ID: "us-west-1", Name: "US West (N. California)"},
		{ID: "eu-west-3", Name: "Europe (Paris)"},
		{ID: "eu-central-1", Name: "Europe (Frankfurt)"},
		{ID: "ap-northeast-1", Name: "Asia Pacific (Tokyo)"},
		{ID: "ap-southeast-1", Name: "Asia Pacific (Singapore)"},
	}
}

func regionName(id string) string {
	all := regions()
	if at := slices.IndexFunc(all, func(r namedView) bool { return r.ID == id }); at >= 0 {
		return all[at].Name
	}
	return id
}

type regionView struct {
	ID      string `json:"id"`
	Type    string `json:"type"`
	Name    string `json:"name"`
	Product string `json:"product,omitempty"`
	Status  string `json:"status,omitempty"`
}

// listRegions serves GET /v1/regions?product=postgres|accelerate.
func (s *Simulator) listRegions(c *call) (reply, error) {
	asked := c.URL.Query().Get("product")
	views := []regionView{}
	for _, product := range []string{"postgres", "accelerate"} {
		if asked == "" || asked == product {
			views = append(views, viewRegions(product, true)...)
		}
	}
	return reply{http.StatusOK, dataBody{views}}, nil
}

// listPostgresRegions serves GET /v1/regions/postgres.
func (s *Simulator) listPostgresRegions(*call) (reply, error) {
	return reply{http.StatusOK, dataBody{viewRegions("postgres", false)}}, nil
}

// listAccelerateRegions serves GET /v1/regions/accelerate.
func (s *Simulator) listAccelerateRegions(*call) (reply, error) {
	return reply{http.StatusOK, dataBody{viewRegions("accelerate", false)}}, nil
}

// viewRegions renders the regions of a product; only Postgres has a status.
func viewRegions(product string, named bool) []regionView {
	var views []regionView
	for _, r := range regions() {
		view := regionView{ID: r.ID, Type: "region", Name: r.Name}
		if named {
			view.Product = product
		}
		if product == "postgres" {
			view.Status = "available"
		}
		views = append(views, view)
	}
	return views
}
