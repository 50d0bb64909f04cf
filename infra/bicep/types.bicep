// Types of the parameters, and ids of the built-in roles that are assigned. The other files import from here.

@export()
@description('A model deployment of an account that this template creates.')
@sealed()
type deployment = {
  @description('Name of the deployment. The lines of a batch name it; other calls name the model.')
  @minLength(2)
  @maxLength(64)
  name: string

  @description('Name of the model; callers use it unless `alias` is given.')
  @minLength(1)
  model: string

  @description('Name that callers use, if it is not the name of the model.')
  @minLength(1)
  alias: string?

  @description('Its maker, in Azure\'s words. Default: OpenAI. Any other makes the account a Foundry resource.')
  format:
    | 'OpenAI'
    | 'OpenAI-OSS'
    | 'Anthropic'
    | 'DeepSeek'
    | 'xAI'
    | 'Meta'
    | 'Mistral AI'
    | 'Microsoft'
    | 'MoonshotAI'
    | 'Cohere'?

  @description('Version of the model, kept until Azure retires it. Default: Azure\'s default, upgraded with it.')
  @minLength(1)
  version: string?

  @description('SKU: how the deployment is billed and where it is processed. Batch SKUs serve batches alone.')
  sku:
    | 'Standard'
    | 'GlobalStandard'
    | 'DataZoneStandard'
    | 'ProvisionedManaged'
    | 'GlobalProvisionedManaged'
    | 'DataZoneProvisionedManaged'
    | 'GlobalBatch'
    | 'DataZoneBatch'
    | 'DeveloperTier'

  @description('Thousands of tokens per minute, or provisioned throughput units.')
  @minValue(1)
  capacity: int

  @description('Of a provisioned SKU: the day from which its units are paid, as 2026-12-01. Default: always.')
  @minLength(10)
  @maxLength(10)
  since: string?

  @description('Content filter of the account. Default: Azure\'s.')
  raiPolicyName: string?

  @description('Standard deployment of the same account that serves what a provisioned one cannot.')
  spilloverDeploymentName: string?
}

@export()
@description('Whom Anthropic is told about its users with every deployment of Claude, as Azure demands.')
@sealed()
type modelProvider = {
  @description('Name of your organisation.')
  @minLength(1)
  organizationName: string

  @description('Its industry, in the words of Azure\'s form, as `technology`.')
  @minLength(1)
  industry: string

  @description('Its country, as `DE`.')
  @minLength(2)
  @maxLength(2)
  countryCode: string
}

@export()
@description('An Azure OpenAI account that this template creates. Each of its SKUs becomes one backend, except for batch SKUs.')
@sealed()
type account = {
  @description('Name of the account, unique: small letters, digits and `-`, because it becomes a part of the endpoint.')
  @minLength(2)
  @maxLength(32)
  name: string

  @description('Azure region, as `swedencentral`.')
  @minLength(1)
  region: string

  @description('Data zone of the region. It is recorded for SKUs that stay in it, never for global ones.')
  dataZone: ('eu' | 'us')?

  @description('Lower goes first. Default: 1.')
  @minValue(0)
  @maxValue(100)
  priority: int?

  @description('Priority of the provisioned deployments. Default: 0, so that paid capacity is used first.')
  @minValue(0)
  @maxValue(100)
  provisionedPriority: int?

  @description('Share of the calls within a priority. Default: 1.')
  @minValue(1)
  @maxValue(100)
  weight: int?

  @description('Backends of one group have one quota for each of their models. Default: each its own.')
  quotaGroup: string?

  @description('Model deployments. Azure creates those of one account one after the other.')
  @minLength(1)
  deployments: deployment[]
}

@export()
@description('An existing Azure OpenAI or Foundry account, in any group and subscription of the tenant.')
@sealed()
type existingAccount = {
  @description('Name of the backend, unique.')
  @minLength(1)
  @maxLength(64)
  name: string

  @description('Resource id of the account. The deployer must be allowed to assign roles on it.')
  @minLength(1)
  resourceId: string

  @description('Endpoint. Default: https://NAME.openai.azure.com with the name of the resource.')
  endpoint: string?

  @description('Azure region.')
  @minLength(1)
  region: string

  @description('Data zone of the region. Not beside `deployment` global.')
  dataZone: ('eu' | 'us')?

  @description('Model that callers ask for: name of the deployment.')
  models: {
    *: string
  }

  @description('Default: standard.')
  kind: ('standard' | 'provisioned')?

  @description('Where the calls of the deployments are processed: their price, and the keys that may use them. Default: not stated.')
  deployment: ('global' | 'data_zone' | 'regional')?

  @description('The same for single models, where it is not that of `deployment`.')
  types: {
    *: ('global' | 'data_zone' | 'regional')
  }?

  @description('With `kind` provisioned: throughput units of each model, from a day on.')
  capacity: provisionedCapacity[]?

  @description('API version for callers of /v1. Default: v1.')
  apiVersion: string?

  @description('Lower goes first. Default: 1.')
  @minValue(0)
  @maxValue(100)
  priority: int?

  @description('Share of the calls within a priority. Default: 1.')
  @minValue(1)
  @maxValue(100)
  weight: int?

  @description('Backends of one group have one quota for each of their models. Default: each its own.')
  quotaGroup: string?

  @description('Models of other makers than OpenAI are deployed there; the gateway gets the role for them. Default: false.')
  foundry: bool?

  @description('Reach it through a private endpoint in the virtual network of the gateway. Default: false.')
  privateEndpoint: bool?
}

@export()
@description('Provisioned throughput units of a model, from a day on.')
@sealed()
type provisionedCapacity = {
  @description('A model of the account.')
  model: string

  @description('Throughput units.')
  @minValue(0)
  units: int

  @description('First day, as 2026-12-01.')
  from: string

  @description('USD per unit and hour, a number with a fraction. Default: Azure\'s price without a reservation.')
  usd_per_unit_hour: any?
}

@export()
@description('A role for a principal on the resource of the module.')
@sealed()
type assignment = {
  @description('Object id of the principal.')
  principalId: string

  @description('Kind of the principal.')
  principalType: 'ServicePrincipal' | 'User' | 'Group'

  @description('Id of the role: one of `roles`, or that of a custom role.')
  roleId: string
}

@export()
@description('Ids of the built-in roles. The same in every tenant.')
var roles = {
  cognitiveServicesOpenAIUser: '5e0bd9bd-7b93-4f28-af87-19fc36ad61bd'
  cognitiveServicesUser: 'a97b65f3-24c7-4388-baec-2e87135dc908'
  keyVaultSecretsUser: '4633458b-17de-408a-b874-0445c86b69e6'
  monitoringMetricsPublisher: '3913510d-42f4-4e42-8a64-420c390055eb'
  monitoringReader: '43d0d8ad-25c7-4714-9337-8ba259a9fe05'
  storageBlobDataContributor: 'ba92f5b4-2d11-453d-a403-e96b0029c9fe'
  storageBlobDataOwner: 'b7e6dc6d-f1e8-4753-8033-0f276bb0955b'
  storageTableDataContributor: '0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3'
}
