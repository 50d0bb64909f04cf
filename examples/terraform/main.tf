# Consumers with their budgets, by the generic REST provider (registry.terraform.io/providers/Mastercard/restapi).
#
# This example was not run against a provider: it was written from the provider's documentation and from the gateway's
# tested API (docs/api.md, "Management paths"). Read the plan before the first apply.
#
#   export TF_VAR_gateway=https://GATEWAY TF_VAR_management_key=…
#   terraform init && terraform plan

terraform {
  required_providers {
    restapi = {
      source  = "Mastercard/restapi"
      version = "~> 2.0"
    }
  }
}

variable "gateway" {
  type        = string
  description = "The address of the gateway, without a slash at its end."
}

variable "management_key" {
  type      = string
  sensitive = true
}

variable "consumers" {
  description = "Consumers by id: what docs/api.md lists, without the id. A budget is a limit."
  type        = any
  default = {
    research-chat = {
      name   = "research-chat"
      models = ["gpt-5.4", "gpt-5.4-mini"]
      limits = { tokens_per_minute = 50000, budget_usd = 200, budget_period = "month" }
    }
    sales-bot = {
      name    = "sales-bot"
      models  = ["gpt-5.4-mini"]
      limits  = { tokens_per_minute = 20000, budget_usd = 50, budget_period = "month" }
      expires = "2027-03-31T00:00:00Z"
    }
  }
}

provider "restapi" {
  uri                  = var.gateway
  write_returns_object = true
  headers = {
    Authorization  = "Bearer ${var.management_key}"
    "Content-Type" = "application/json"
  }
}

# PUT with an id of ours creates and replaces, and may be repeated.
resource "restapi_object" "consumer" {
  for_each      = var.consumers
  path          = "/gateway/consumers"
  create_path   = "/gateway/consumers/{id}"
  create_method = "PUT"
  update_method = "PUT"
  object_id     = each.key
  data          = jsonencode(each.value)
}

# The text of a key is in the answer to its creation alone, and so in Terraform's state, which has to be kept as a secret.
# To keep it out of the state, leave this resource away and make keys with `tollgate keys add ID`.
resource "restapi_object" "key" {
  for_each = var.consumers
  path     = "/gateway/consumers/${restapi_object.consumer[each.key].id}/keys"
  data     = jsonencode({})

  lifecycle {
    ignore_changes = all # a key never changes; destroying it revokes it
  }
}

output "keys" {
  value     = { for id, key in restapi_object.key : id => jsondecode(key.create_response).key }
  sensitive = true
}
